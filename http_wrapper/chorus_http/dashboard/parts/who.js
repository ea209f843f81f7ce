/** Who asked, in words: the owner of a key, another PC by its address, or this PC itself. */
export function who(user) {
  if (!user) return "this PC";
  return user.startsWith("@") ? user.slice(1) : user;
}
