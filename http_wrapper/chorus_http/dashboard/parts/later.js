/** Work that is asked for often and done seldom: at once when it rested, else once more after `gapMs`; never twice at
 * the same time. */
export function throttled(work, gapMs, signal) {
  let runs = false;
  let again = false;
  return async function soon() {
    if (signal.aborted) return;
    if (runs) {
      again = true;
      return;
    }
    runs = true;
    do {
      again = false;
      await work();
      await new Promise((resolve) => setTimeout(resolve, gapMs));
    } while (again && !signal.aborted);
    runs = false;
  };
}
