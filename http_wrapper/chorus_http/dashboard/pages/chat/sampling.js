/** How answers are made, as this browser's person likes them; what is not set is left to the model. */

const KEPT_AS = "chorus.chat.sampling";
const LIMITS = { temperature: [0, 2], max_tokens: [1, 131_072] };

/** `{temperature?, max_tokens?}`, as a message's body takes them. */
export function sampling() {
  const kept = stored();
  const found = {};
  for (const [name, [least, most]] of Object.entries(LIMITS)) {
    if (typeof kept[name] === "number" && kept[name] >= least && kept[name] <= most) found[name] = kept[name];
  }
  return found;
}

/** Keep it for all chats of this browser. */
export function keepSampling(wanted) {
  localStorage.setItem(KEPT_AS, JSON.stringify(wanted));
}

/** Least and most of one of the values. */
export function limitsOf(name) {
  const [min, max] = LIMITS[name];
  return { min, max };
}

function stored() {
  try {
    return JSON.parse(localStorage.getItem(KEPT_AS)) ?? {};
  } catch {
    return {}; // somebody else wrote there
  }
}
