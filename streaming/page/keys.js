/** The keyboard: Space to hold, Esc to interrupt, and letters that can be switched off. */

const typing = (target) => target.closest("textarea, select, input:not([type=checkbox], [type=radio], [type=range])");

/** @param act actions by name; @param letters whether single keys count; @param space whether Space is held to talk. */
export function keys({ act, letters, space }) {
  const singles = {
    m: act.mute,
    c: act.captions,
    t: () => act.panel("timing"),
    e: () => act.panel("events"),
    s: () => act.panel("settings"),
    "/": act.type,
    "?": act.help,
  };
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") act.escape();
    else if (typing(event.target)) return;
    else if (event.code === "Space" && space() && !event.target.closest("button:not(#talk), summary, label, input")) {
      event.preventDefault();
      if (!event.repeat) act.press();
    } else if (letters() && !event.repeat && singles[event.key.toLowerCase()]) {
      event.preventDefault();
      singles[event.key.toLowerCase()]();
    }
  });
  document.addEventListener("keyup", (event) => {
    if (event.code !== "Space") return;
    if (space() && event.target.closest("#talk")) event.preventDefault(); // or it would click too
    act.release();
  });
  addEventListener("blur", () => act.release());
}
