import { describe, expect, test } from "vitest";
import { imbalance, Ledger } from "../../src/core/ledger.ts";
import { MessagesBuilder } from "../../src/core/messages.ts";

describe("the ledger", () => {
  test("keeps one count for each stage and name, and copies it into its lines", () => {
    const ledger = new Ledger();
    const count = ledger.stage("source", "devices", "messages");
    expect(ledger.stage("source", "devices", "messages")).toBe(count);
    expect(ledger.stage("source", "kernel", "samples")).not.toBe(count);
    count.in += 3;
    count.note("made", 2);
    const [line] = ledger.lines();
    count.note("made", 5);
    expect(line).toMatchObject({
      stage: "source",
      name: "devices",
      unit: "messages",
      in: 3,
      also: { made: 2 },
    });
  });

  test("tells apart what is held and what is missing", () => {
    const ledger = new Ledger();
    let inside = 2;
    const count = ledger.stage("decode", "devices", "messages", () => inside);
    Object.assign(count, { in: 10, out: 4, lost: 1, dropped: 1, rejected: 2 });
    expect(ledger.lines().map(imbalance)).toEqual([0]);
    inside = 1;
    expect(ledger.lines().map(imbalance)).toEqual([1]);
  });
});

describe("messages for a decoder plugin", () => {
  test("share dictionaries, and their payloads lie one after the other", () => {
    const builder = new MessagesBuilder();
    builder.add("a", "x", "t/a/x", 1, Buffer.from("one"));
    builder.add("b", "", "t/b", 2, Buffer.alloc(0));
    builder.add("a", "", "t/a/x", 3, Buffer.from("three"));
    const messages = builder.build();
    expect(messages).toMatchObject({ devices: ["a", "b"], channels: ["x", ""], topics: ["t/a/x", "t/b"] });
    expect([...messages.device, ...messages.channel, ...messages.topic]).toEqual([0, 1, 0, 0, 1, 1, 0, 1, 0]);
    expect([...messages.time, ...messages.end]).toEqual([1, 2, 3, 3, 3, 8]);
    expect(Buffer.from(messages.payload).toString()).toBe("onethree");
  });
});
