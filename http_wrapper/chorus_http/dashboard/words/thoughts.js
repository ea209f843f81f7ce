/**
 * A model's thoughts apart from its answer, in text as it comes from a chat session. The rules for tags are those of
 * the agent (client/chorus_client/thinking/think_tags.py): a tag counts only as the first thing of the answer, the
 * first closing tag ends the thought, and a thought that never ends stays one. A template that opened the thought in
 * the prompt leaves a closing tag alone on its line.
 */

const OPENING = /^\s*<(think|thinking|thought|reasoning)>\s*/i;
const CLOSING_ALONE = /(?:^|\n)[ \t]*<\/think>[ \t]*(?:\n|$)/;
const LONGEST_TAG = 13;

/** gpt-oss (harmony): the channel's name stands before each part; only `final` is the answer. */
const CHANNEL = /(?:<\|start\|>\w*)?<\|channel\|>(\w+)[^<]*<\|message\|>|<\|(?:end|return|start)\|>\w*/g;

/** `{thought, answer, thinking}`; `thinking`: the text ends inside a thought. `ended`: no more text will come. */
export function split(text, { ended = true } = {}) {
  if (/^\s*<\|(?:channel|start)\|>/.test(text)) return splitChannels(text);
  const opened = OPENING.exec(text);
  if (!opened) return unopened(text, ended);
  const rest = text.slice(opened[0].length);
  const closing = `</${opened[1].toLowerCase()}>`;
  const at = rest.toLowerCase().indexOf(closing);
  if (at < 0) return { thought: ended ? rest : withoutTagBegun(rest, closing), answer: "", thinking: !ended };
  return { thought: rest.slice(0, at).trimEnd(), answer: rest.slice(at + closing.length).trimStart(), thinking: false };
}

function unopened(text, ended) {
  const closed = CLOSING_ALONE.exec(text);
  if (closed) {
    const after = text.slice(closed.index + closed[0].length);
    return { thought: text.slice(0, closed.index).trim(), answer: after.trimStart(), thinking: false };
  }
  const begun = text.trimStart();
  // Perhaps the beginning of a tag: it is not shown until that is known.
  const undecided = !ended && begun.length < LONGEST_TAG && /^<[a-z|]*$/i.test(begun);
  return { thought: "", answer: undecided ? "" : text, thinking: false };
}

function splitChannels(text) {
  const said = { thought: [], answer: [] };
  let into = "answer";
  let from = 0;
  for (const mark of text.matchAll(CHANNEL)) {
    said[into].push(text.slice(from, mark.index));
    if (mark[1]) into = mark[1] === "final" ? "answer" : "thought";
    from = mark.index + mark[0].length;
  }
  const rest = text.slice(from);
  const tag = rest.lastIndexOf("<|");
  said[into].push(tag < 0 || rest.length - tag > 40 ? rest : rest.slice(0, tag));
  const joined = (parts) =>
    parts
      .filter((part) => part.trim())
      .join("\n\n")
      .trim();
  return { thought: joined(said.thought), answer: joined(said.answer), thinking: into === "thought" };
}

function withoutTagBegun(text, tag) {
  for (let length = Math.min(tag.length - 1, text.length); length > 0; length -= 1) {
    if (tag.startsWith(text.slice(-length).toLowerCase())) return text.slice(0, -length);
  }
  return text;
}
