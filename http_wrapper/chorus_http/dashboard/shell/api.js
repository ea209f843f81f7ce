/** The server's HTTP API: JSON in and out, its refusals as `ApiError`, its streams as async iterators. */

const WITHIN_S = 20;

/** What the server, or the way to it, said no with. `status` 0: it did not answer at all. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "", retryAfterS = null } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

const refusedKey = new EventTarget();

/** Calls `listener` whenever the server answers 401: the session has ended, or none was begun. */
export function onSignInNeeded(listener) {
  refusedKey.addEventListener("refused", listener);
}

/**
 * The JSON of an answer; null where it has no body. `body`: a plain value, sent as JSON, or a FormData or Blob.
 * Throws ApiError. An aborted `signal` throws its AbortError.
 */
export async function api(path, { method, body, headers, signal, withinS = WITHIN_S } = {}) {
  const answer = await request(path, { method, body, headers, signal: withTimeout(signal, withinS) });
  const text = await answer.text().catch((error) => rethrow(error, path));
  return text ? JSON.parse(text) : null;
}

/**
 * Server-sent events, or lines of JSON, as they come: `for await (const {event, data, id} of stream("/query", {body}))`.
 * `data` is parsed where it is JSON, else the text; the closing `[DONE]` is left out. An event with the name `error`,
 * and data of the form `{error: {message}}` without a name, throw ApiError.
 */
export async function* stream(path, { method, body, headers, signal } = {}) {
  const answer = await request(path, { method, body, headers, signal });
  const lines = answer.headers.get("content-type")?.startsWith("application/x-ndjson") ?? false;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => rethrow(error, path));
      rest = (rest + (value ?? "")).replaceAll("\r\n", "\n");
      const parts = rest.split(lines ? "\n" : "\n\n");
      rest = done ? "" : parts.pop();
      for (const part of parts) {
        const event = lines ? lineEvent(part) : sseEvent(part);
        if (event) yield event;
      }
      if (done) return;
    }
  } finally {
    await reader.cancel().catch(() => {}); // it may have ended by an error already
  }
}

/** Send a form with files; `onProgress(0..1)` as it goes up. Fetch cannot tell progress, so this one is XHR. */
export function upload(path, form, { signal, onProgress } = {}) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("POST", path);
    sending.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onProgress?.(event.loaded / event.total);
    });
    sending.addEventListener("load", () => {
      const answer = parsed(sending.responseText);
      if (sending.status < 400) resolve(answer);
      else reject(refusal(sending.status, answer, sending.getResponseHeader("retry-after")));
    });
    sending.addEventListener("error", () => reject(unreachable()));
    sending.addEventListener("abort", () => reject(new DOMException("The upload was stopped.", "AbortError")));
    signal?.addEventListener("abort", () => sending.abort());
    sending.send(form);
  });
}

async function request(path, { method, body, headers = {}, signal }) {
  const raw = body instanceof FormData || body instanceof Blob;
  const json = body !== undefined && !raw;
  let answer;
  try {
    answer = await fetch(path, {
      method: method ?? (body === undefined ? "GET" : "POST"),
      body: json ? JSON.stringify(body) : body,
      headers: json ? { "content-type": "application/json", ...headers } : headers,
      signal,
      credentials: "same-origin",
      redirect: "error",
    });
  } catch (error) {
    return rethrow(error, path);
  }
  if (answer.ok) return answer;
  throw refusal(answer.status, parsed(await answer.text().catch(() => "")), answer.headers.get("retry-after"));
}

function refusal(status, answer, retryAfter) {
  if (status === 401) refusedKey.dispatchEvent(new Event("refused"));
  const told = answer?.error;
  const message = (typeof told === "string" ? told : told?.message) || `The server answered ${status}.`;
  return new ApiError(message, {
    status,
    code: told?.code ?? "",
    retryAfterS: retryAfter === null ? null : Number(retryAfter),
  });
}

function rethrow(error, path) {
  if (error.name === "TimeoutError") throw new ApiError(`The server did not answer in time (${path}).`);
  if (error.name === "AbortError" || error instanceof ApiError) throw error;
  throw unreachable();
}

function unreachable() {
  return new ApiError("The server cannot be reached. Is Chorus still running, and is this PC still on the network?");
}

function withTimeout(signal, withinS) {
  const limit = AbortSignal.timeout(withinS * 1000);
  return signal ? AbortSignal.any([signal, limit]) : limit;
}

function sseEvent(text) {
  const found = { event: "message", id: null, data: [] };
  for (const line of text.split("\n")) {
    const [, field, value] = /^([a-z]+): ?(.*)$/.exec(line) ?? [];
    if (field === "data") found.data.push(value);
    else if (field === "event" || field === "id") found[field] = value;
  }
  const data = found.data.join("\n");
  if (!data || data === "[DONE]") return null;
  return checked({ event: found.event, id: found.id, data: parsed(data) });
}

function lineEvent(text) {
  return text.trim() ? checked({ event: "message", id: null, data: parsed(text) }) : null;
}

function checked(found) {
  const told = found.data?.error;
  // An event with a name of its own may speak of an error that is not the stream's: of one PC among several.
  if (found.event !== "error" && !(found.event === "message" && told)) return found;
  throw new ApiError((typeof told === "string" ? told : told?.message) ?? "The answer broke off.", {
    code: told?.code ?? "",
  });
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text || null;
  }
}
