"""Items that clients make."""

from __future__ import annotations

from omni.streaming.audio.wire import unbase64
from omni.streaming.fields import check_hears, check_sees
from omni.streaming.problems import Problem
from omni.streaming.realtime import client_events as client
from omni.streaming.realtime.effects import Media
from omni.streaming.realtime.items import Item, Part, check_samples
from omni.streaming.realtime.state import State


def item_of(value: object, param: str, media: Media, format: str, state: State) -> Item:
    """An item of a client's JSON; Problem, with the path below `param`, where it is none.

    media: its pictures by their URLs; format: of its sounds.
    """

    can, new_id = state.setup.bounds.can, state.new_id

    def part_of(part: client.UserPart, param: str) -> Part:
        match part:
            case client.InputText():
                return Part("input_text", part.text)
            case client.InputAudio():
                check_hears(can, f"{param}.audio")
                sound = unbase64(part.audio, state.limits.media_bytes, f"{param}.audio")
                check_samples(format, sound, f"{param}.audio")
                return Part("input_audio", part.transcript, format, bytearray(sound))
            case client.InputImage(image_url=url):
                check_sees(can, f"{param}.image_url")
                if url not in media:
                    raise Problem("the picture cannot be read", param=f"{param}.image_url", code="invalid_media")
                return Part("input_image", url=url, image=media[url])

    asked = client.parse_item(value, param)
    id = asked.id or new_id("item")
    match asked:
        case client.UserMessage(content=parts):
            found = [part_of(part, f"{param}.content[{i}]") for i, part in enumerate(parts)]
            return Item(id, "message", "user", parts=found)
        case client.SystemMessage(content=texts):
            return Item(id, "message", "system", parts=[Part("input_text", text.text) for text in texts])
        case client.AssistantMessage(content=said):
            return Item(id, "message", "assistant", parts=[_said(part) for part in said])
        case client.FunctionCall():
            call_id = asked.call_id or new_id("call")
            return Item(id, "function_call", call_id=call_id, name=asked.name, arguments=asked.arguments)
        case client.FunctionCallOutput():
            return Item(id, "function_call_output", call_id=asked.call_id, output=asked.output)
    raise AssertionError(asked)


def _said(part: client.AssistantPart) -> Part:
    match part:
        case client.OutputText():
            return Part("output_text", part.text)
        case client.OutputAudio():
            return Part("output_audio", part.transcript)
