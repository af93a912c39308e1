/** Asks the server, before any microphone is opened, whether it can be talked to. */

const WAIT = 6000;

async function get(path, key) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  return fetch(new URL(path, document.baseURI), { headers, cache: "no-store", signal: AbortSignal.timeout(WAIT) });
}

async function told(response) {
  const body = await response.json().catch(() => null);
  if (body?.status === "stuck") return "The model does not answer. The page keeps asking.";
  if (body?.status === "ending") return "The server is about to stop.";
  return body?.error?.message ?? "";
}

/**
 * {state: "down" | "busy" | "key" | "ready", text, model, can, voices, usual}: what to tell the person, what the model is called
 * and can do ({hears, sees, speaks}), and what there is to choose.
 */
export async function look(key) {
  let health, models, voices;
  try {
    health = await get("health", key);
    if (health.ok) [models, voices] = await Promise.all([get("v1/models", key), get("v1/audio/voices", key)]);
  } catch (error) {
    const slow = error.name === "TimeoutError";
    return { state: "down", text: slow ? "The server does not answer." : "The server cannot be reached. Is it running?" };
  }
  const worst = [health, models, voices].find((response) => response && !response.ok);
  if (worst) {
    const text = await told(worst);
    if (worst.status === 401 || worst.status === 403)
      return { state: "key", text: key ? "The server does not accept this key." : "This server asks for a key." };
    if (worst.status === 429 || worst.status === 503)
      return { state: "busy", text: text || "The server is busy. The page keeps asking." };
    return { state: "down", text: `The server is in trouble (${worst.status}). ${text}`.trim() };
  }
  const [{ id, capabilities }] = (await models.json()).data;
  const names = await voices.json();
  return { state: "ready", text: "", model: id, can: capabilities, voices: names.voices.map((voice) => voice.id), usual: names.default };
}
