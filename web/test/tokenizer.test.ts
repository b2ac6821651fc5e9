import { describe, expect, it } from "vitest";
import { fnv1a, tokenize } from "../src/search/tokenizer";

describe("tokenize", () => {
  it.each([
    ["Hello, World!", ["hello", "world"]],
    ["it's 3.14", ["it", "s", "3", "14"]],
    ["Straße STRASSE", ["strasse", "strasse"]],
    ["ΟΔΟΣ", ["οδοσ"]],
    ["ﬁne ① Ⅷ", ["fine", "1", "viii"]],
    ["ılık", ["ılık"]],
    ["ꭰ", ["Ꭰ"]],
    ["日本語", ["日本語"]],
    ["_-…", []],
    ["", []],
  ])("splits %j into %j", (text, words) => {
    expect(tokenize(text)).toEqual(words);
  });

  it("cuts words after 64 code points, not between surrogates", () => {
    expect(tokenize("x".repeat(100))).toEqual(["x".repeat(64)]);
    expect(tokenize("𠀀".repeat(70))).toEqual(["𠀀".repeat(64)]);
  });
});

describe("fnv1a", () => {
  // Test vectors of the draft of Fowler, Noll and Vo.
  it.each([
    ["", 0x811c9dc5],
    ["a", 0xe40c292c],
    ["b", 0xe70c2de5],
    ["foobar", 0xbf9cf968],
  ])("of %j is %d", (text, hash) => {
    expect(fnv1a(new TextEncoder().encode(text))).toBe(hash);
  });
});
