// What the model made of the text: tokens, ranks and probabilities, and the words for them.

import { postJson } from "./api.js";
import { number, percent, spoken } from "./dom.js";

export const CLASSES = [
  { name: "top", label: "Top 10", below: 10 },
  { name: "hundred", label: "Top 100", below: 100 },
  { name: "thousand", label: "Top 1,000", below: 1000 },
  { name: "beyond", label: "Beyond", below: Infinity },
];

/** The class of a rank counted from 0; null for the first token, which nothing predicts. */
export const classOf = (rank) => (rank === null ? null : CLASSES.find(({ below }) => rank < below));

/** Ask the server about a text. */
export async function read(text, model, signal) {
  const answer = text
    ? await postJson("v1/inspect", { model, prompt: text }, signal)
    : { token_ids: [], byte_ends: [], pieces: {} };
  const { token_ids: ids, pieces, ranks, token_logprobs: logprobs, entropies, top_logprobs: top } = answer;
  const ends = characters(text, answer.byte_ends);
  return {
    text,
    ids,
    starts: [0, ...ends.slice(0, -1)],
    ends,
    tokens: ids.map((id, t) => ({
      id,
      piece: pieces[id],
      rank: ranks[t],
      probability: logprobs[t] === null ? null : Math.exp(logprobs[t]),
      bits: entropies[t] === null ? null : entropies[t] / Math.LN2,
      top: top[t].map(([other, logprob]) => ({ id: other, piece: pieces[other], probability: Math.exp(logprob) })),
    })),
    perplexity: answer.perplexity,
    bitsPerByte: answer.bits_per_byte,
    limit: answer.n_positions,
  };
}

/** Offsets in UTF-8 to indices of the string. One inside a character becomes its end. */
export function characters(text, offsets) {
  const found = [];
  let bytes = 0;
  let index = 0;
  for (const offset of offsets) {
    while (bytes < offset && index < text.length) {
      const code = text.codePointAt(index);
      bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
      index += code > 0xffff ? 2 : 1;
    }
    found.push(index);
  }
  return found;
}

/** "rank 3, 12 %" */
export const standingOf = ({ rank, probability }) => (rank === null ? "first token" : `rank ${number(rank + 1)}, ${percent(probability)}`);

/** "the, rank 3, 12 %" */
export const nameOf = (token) => `${spoken(token.piece)}, ${standingOf(token)}`;

/** How many tokens from the beginning stand unchanged in another text. */
export function unchanged(reading, text) {
  const most = Math.min(reading.text.length, text.length);
  let same = 0;
  while (same < most && reading.text[same] === text[same]) same += 1;
  let low = 0;
  let high = reading.ends.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (reading.ends[middle] <= same) low = middle + 1;
    else high = middle;
  }
  return low;
}
