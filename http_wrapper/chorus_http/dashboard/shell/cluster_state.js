/** The JSON of GET /status, brought up to date by the events of the cluster. Pure: each step returns a new value. */

/** The status after one event; the same object where the event does not concern it. */
export function afterEvent(status, { kind, body }) {
  if (kind.startsWith("node.") && body.node) return withNode(status, body.node);
  if (kind === "replica") return withReplica(status, body.node_id, body.replica);
  if (kind === "readings") return withReadings(status, body.nodes);
  if (kind === "queue") {
    return { ...status, requests: { ...status.requests, waiting: body.waiting, running: body.running } };
  }
  return status;
}

/** The status with `tokens_per_s` of each PC reckoned from an earlier one, for who polls. `seconds` between the two. */
export function withRates(status, before, seconds) {
  const earlier = new Map((before?.clients ?? []).map((one) => [one.node_id, one.tokens_total]));
  const rate = (one) =>
    earlier.has(one.node_id) ? Math.max(0, one.tokens_total - earlier.get(one.node_id)) / seconds : null;
  return { ...status, clients: status.clients.map((one) => ({ ...one, tokens_per_s: rate(one) })) };
}

function withNode(status, node) {
  const known = status.clients.some((one) => one.node_id === node.node_id);
  const clients = known
    ? status.clients.map((one) => (one.node_id === node.node_id ? { ...one, ...node } : one))
    : [...status.clients, node];
  return counted({ ...status, clients });
}

function withReplica(status, nodeId, replica) {
  const change = (client) => {
    const others = client.replicas.filter((one) => one.model !== replica.model);
    return { ...client, replicas: replica.state === "gone" ? others : [...others, replica] };
  };
  return { ...status, clients: status.clients.map((one) => (one.node_id === nodeId ? change(one) : one)) };
}

function withReadings(status, readings) {
  const told = new Map(readings.map((one) => [one.node_id, one]));
  const clients = status.clients.map((client) => {
    const { node: _name, ...reading } = told.get(client.node_id) ?? {};
    return { ...client, ...reading };
  });
  return counted({ ...status, clients });
}

function counted(status) {
  const active = status.clients.filter((one) => one.state === "alive").length;
  return { ...status, total_clients: status.clients.length, active_clients: active };
}
