/** Who sits here. A key is shown to the server once; from then on an HttpOnly cookie that no script can read stands
 * for it, so a page that was tricked into running foreign code would still have no key to give away. */

import { ApiError, api } from "./api.js";

let present = { keys_required: false, signed_in: false, owner: "", scopes: [] };

export function session() {
  return present;
}

/** Ask the server. Throws ApiError when it does not answer. */
export async function refreshSession() {
  try {
    present = await api("/session");
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 401) throw error;
    present = { keys_required: true, signed_in: false, owner: "", scopes: [] };
  }
  return present;
}

/** Throws ApiError for a key that is none. */
export async function signIn(key) {
  if (!key.startsWith("chorus_")) throw new ApiError("This is no API key: one begins with chorus_.", { status: 401 });
  present = await api("/session", { method: "POST", headers: { authorization: `Bearer ${key}` } });
  return present;
}

export async function signOut() {
  await api("/session", { method: "DELETE" });
  await refreshSession();
}

/** May this person do what needs the scope? Where no key is needed, everybody may do everything. */
export function can(scope) {
  if (!present.keys_required && !present.signed_in) return true;
  return present.scopes.includes("admin") || present.scopes.includes(scope);
}

/** Nothing can be shown before somebody signs in. */
export function mustSignIn() {
  return present.keys_required && !present.signed_in;
}
