// Which words of two texts are the same: a longest common subsequence of words and punctuation.

const MOST_CELLS = 4_000_000; // of the table; longer texts count as different between their equal ends

const segmenter = new Intl.Segmenter("en", { granularity: "word" });

const isWord = (text) => /[\p{L}\p{N}]/u.test(text);

/** Whether a segment goes on the word it touches: "thought-provoking" is one. */
function goesOn(word, segment) {
  const hyphen = /^[-\u2010\u2011]$/;
  return hyphen.test(segment) ? isWord(word.at(-1)) : hyphen.test(word.at(-1)) && isWord(word) && isWord(segment);
}

/** Words and punctuation, each with the white space before it; joined they are the text. */
function words(text) {
  const found = [];
  let gap = "";
  for (const { segment } of segmenter.segment(text)) {
    if (!gap && found.length && goesOn(found.at(-1), segment)) found[found.length - 1] += segment;
    else if (segment.trim()) found.push(gap + segment);
    gap = segment.trim() ? "" : gap + segment;
  }
  return gap ? [...found, gap] : found;
}

/** Lengths of the longest common subsequence of a[i:] and b[j:], row by row. */
function lengths(a, b) {
  const rows = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      const same = a[i].trim() === b[j].trim();
      rows[i][j] = same ? rows[i + 1][j + 1] + 1 : Math.max(rows[i + 1][j], rows[i][j + 1]);
    }
  }
  return rows;
}

/** [kind, word] in reading order; kind is "same", "new" or "gone". */
function steps(a, b) {
  if (a.length * b.length > MOST_CELLS) return [...a.map((w) => ["gone", w]), ...b.map((w) => ["new", w])];
  const rows = lengths(a, b);
  const found = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i].trim() === b[j].trim()) {
      found.push(["same", b[j]]);
      [i, j] = [i + 1, j + 1];
    } else if (j === b.length || (i < a.length && rows[i + 1][j] >= rows[i][j + 1])) {
      found.push(["gone", a[i]]);
      i += 1;
    } else {
      found.push(["new", b[j]]);
      j += 1;
    }
  }
  return found;
}

/** Set apart what went away from a word beside it: a text's first word has no white space of its own. */
function setApart(parts) {
  const touch = (left, right) => isWord(left.text.at(-1)) && isWord(right.text[0]);
  parts.forEach((part, index) => {
    if (part.kind !== "gone") return;
    if (index > 0 && touch(parts[index - 1], part)) part.text = ` ${part.text}`;
    if (index + 1 < parts.length && touch(part, parts[index + 1])) part.text += " ";
  });
  return parts;
}

/** From one text to the next: [{ kind, text, count }], neighbours of a kind joined; `count` is of words. */
export function changes(before, after) {
  const [a, b] = [words(before), words(after)];
  let head = 0;
  while (head < Math.min(a.length, b.length) && a[head].trim() === b[head].trim()) head += 1;
  let tail = 0;
  const most = Math.min(a.length, b.length) - head;
  while (tail < most && a.at(-1 - tail).trim() === b.at(-1 - tail).trim()) tail += 1;
  const all = [
    ...b.slice(0, head).map((word) => ["same", word]),
    ...steps(a.slice(head, a.length - tail), b.slice(head, b.length - tail)),
    ...b.slice(b.length - tail).map((word) => ["same", word]),
  ];
  const joined = [];
  for (const [kind, text] of all) {
    const last = joined.at(-1);
    if (last?.kind === kind) {
      last.text += text;
      last.count += isWord(text);
    } else joined.push({ kind, text, count: Number(isWord(text)) });
  }
  return setApart(joined);
}
