/** Hears what happens in one chat, or which chats there are, through the page's one socket; also after it was cut. */

/**
 * `told(kind, body)` hears the events of GET /chat/sessions/ID/events, first a `snapshot`, also a new one after a gap.
 * `refused(error)`: the chat cannot be watched.
 */
export function watchChat(ctx, id, { signal, told, refused }) {
  const hear = ({ session_id: session, kind, body }) => {
    if (session !== id) return;
    told(kind, body);
    if (kind === "behind") begin();
  };
  const begin = watched(ctx, {
    signal,
    event: "chat",
    hear,
    asked: ["watch_chat", { session_id: id }],
    left: { topic: "chat", id },
    answered: (ack) => {
      if (!ack.ok) refused(ack.error);
    },
  });
}

/** `begun()` is called when nothing can be missed any more, and after each gap; `told(body)` for each change. */
export function watchChats(ctx, { told, begun }) {
  const hear = ({ kind, body }) => {
    if (kind === "changed") told(body);
    else if (kind === "behind") begin();
    else begun();
  };
  const begin = watched(ctx, {
    signal: ctx.signal,
    event: "chats",
    hear,
    asked: ["watch_chats", {}],
    left: { topic: "chats" },
    answered: (ack) => {
      if (!ack.ok) ctx.toast.failed(ack.error.message);
    },
  });
}

function watched(ctx, { signal, event, hear, asked, left, answered }) {
  const socket = ctx.live.socket();
  const begin = () => socket.emit(...asked, answered);
  socket.on(event, hear);
  socket.on("connect", begin);
  if (socket.connected) begin();
  signal.addEventListener("abort", () => {
    socket.off(event, hear);
    socket.off("connect", begin);
    if (socket.connected) socket.emit("unwatch", left);
  });
  return begin;
}
