"""Names of languages, as clients spell them, and what ISO 639 calls them."""

from __future__ import annotations

import re

TAG = re.compile(r"[a-z]{2,3}([-_][a-z0-9]{2,8})*")
UNKNOWN = "und"
"""ISO 639's code for a language that was not told."""
ASKS_FOR_NONE = ("auto", "detect", "none", "null", "multi", UNKNOWN)

_TABLE = """
afrikaans:af albanian:sq amharic:am arabic:ar armenian:hy assamese:as azerbaijani:az bashkir:ba basque:eu
belarusian:be bengali:bn bosnian:bs breton:br bulgarian:bg burmese:my cantonese:yue castilian:es catalan:ca chinese:zh
croatian:hr czech:cs danish:da dutch:nl english:en estonian:et faroese:fo finnish:fi flemish:nl french:fr galician:gl
georgian:ka german:de greek:el gujarati:gu haitian:ht hausa:ha hawaiian:haw hebrew:he hindi:hi hungarian:hu
icelandic:is indonesian:id italian:it japanese:ja javanese:jw kannada:kn kazakh:kk khmer:km korean:ko lao:lo latin:la
latvian:lv lingala:ln lithuanian:lt luxembourgish:lb macedonian:mk malagasy:mg malay:ms malayalam:ml maltese:mt
mandarin:zh maori:mi marathi:mr mongolian:mn myanmar:my nepali:ne norwegian:no nynorsk:nn occitan:oc pashto:ps
persian:fa polish:pl portuguese:pt punjabi:pa romanian:ro russian:ru sanskrit:sa serbian:sr shona:sn sindhi:sd
sinhala:si slovak:sk slovenian:sl somali:so spanish:es sundanese:su swahili:sw swedish:sv tagalog:tl tajik:tg tamil:ta
tatar:tt telugu:te thai:th tibetan:bo turkish:tr turkmen:tk ukrainian:uk urdu:ur uzbek:uz vietnamese:vi welsh:cy
yiddish:yi yoruba:yo
"""
NAMES = dict(pair.split(":") for pair in _TABLE.split())
"""Those that Whisper knows, whose clients send names too."""


def code_of(language: str) -> str | None:
    """`en` for "en", "EN", "en-US", "en_US" and "English"; None for "auto"; ValueError for what is no language."""
    said = language.strip().lower()
    if said in ASKS_FOR_NONE or not said:
        return None
    if said in NAMES:
        return NAMES[said]
    if not TAG.fullmatch(said):
        raise ValueError('give a code such as "en", or a name such as "english"')
    return re.split("[-_]", said)[0]
