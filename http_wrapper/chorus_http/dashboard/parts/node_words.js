/** What is said of a PC, the same on every page. */

/** The PC's state as `{ kind, text, why }`; `kind` is a badge's class. */
export function stateOf(client) {
  const courtesy = client.courtesy;
  switch (client.state) {
    case "dead":
      return { kind: "bad", text: "dead", why: "No word from it; what ran there has moved or failed." };
    case "suspect":
      return { kind: "warn", text: "suspect", why: "Its heartbeat is late; it gets no new work for now." };
    case "asleep":
      return { kind: "rest", text: "asleep", why: "It said goodbye because its PC sleeps; it can be woken." };
    default:
      if (courtesy?.paused) return { kind: "rest", text: "polite pause", why: courtesy.reason };
      if (courtesy) return { kind: "rest", text: "polite", why: courtesy.reason };
      return { kind: "ok", text: "alive", why: "" };
  }
}

/** `Windows · Intel Core i5-12400 · 6 cores`. */
export function hardwareLine({ hardware }) {
  const cores = hardware.physical_cores ? `${hardware.physical_cores} cores` : null;
  return [hardware.os, hardware.cpu_model, cores].filter(Boolean).join(" · ");
}

/** Used and total bytes of the graphics cards that compute; null without one of known memory. */
export function cardMemory(client) {
  const cards = client.hardware.gpus.filter((gpu) => gpu.usable && gpu.memory_bytes && !gpu.shares_host_memory);
  if (!cards.length) return null;
  const total = cards.reduce((sum, gpu) => sum + gpu.memory_bytes, 0);
  const live = client.gpu_free_bytes ?? [];
  const free = live.length
    ? live.reduce((sum, one) => sum + one, 0)
    : cards.reduce((sum, gpu) => sum + (gpu.memory_free_bytes ?? gpu.memory_bytes), 0);
  // Without live readings the models themselves tell the least that is taken.
  const held = client.replicas.reduce((sum, one) => sum + (one.resident_bytes ?? 0), 0);
  const used = live.length ? total - free : Math.max(total - free, held);
  return { used: Math.min(total, Math.max(0, used)), total, name: cards.map((gpu) => gpu.name).join(", ") };
}

export const REPLICA_KIND = { ready: "ok", loading: "accent", unloading: "warn", failed: "bad" };
