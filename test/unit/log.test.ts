import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { redactor } from "../../src/config/secrets.ts";
import { AgentLog } from "../../src/telemetry/log.ts";

let written: string[] = [];
beforeEach(() => {
  vi.useFakeTimers({ toFake: ["performance", "Date"] });
  written = [];
  vi.spyOn(process.stderr, "write").mockImplementation((text) => written.push(String(text)) > 0);
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});
const messages = (): string[] => written.map((line): string => JSON.parse(line).msg);

test("of lines that differ in numbers and quoted names alone ten a minute are written; the next one says how many were not", () => {
  const log = new AgentLog({ level: "info", terminal: false });
  for (let i = 0; i < 500; i++) log.logger.warn(`device "d${i}" sent ${i} bytes too many`);
  log.logger.error('device "d1" sent 7 bytes too many'); // another level is another kind
  log.logger.warn("something else");
  expect(messages().length).toBe(12);
  expect(log.suppressed).toBe(490);
  vi.advanceTimersByTime(60_000);
  log.logger.warn('device "d9" sent 9 bytes too many');
  expect(messages().at(-1)).toBe('device "d9" sent 9 bytes too many (and 490 more like it before, left out)');
});

test("somebody who makes up kinds of lines fills neither the memory nor the support bundle", () => {
  const log = new AgentLog({ level: "info", terminal: false });
  const letters = (i: number): string =>
    i.toString(36).replaceAll(/\d/g, (digit) => "ghijklmnop"[Number(digit)] ?? "");
  for (let i = 0; i < 5_000; i++) log.logger.info(letters(i));
  expect(log.recent.length).toBe(300);
  expect(written.length).toBeGreaterThan(2_000);
});

test("lines are JSON with time, level and message; secrets are hidden in what is written and in what is kept", () => {
  const log = new AgentLog({ level: "info", terminal: false });
  log.hide(redactor(['hunter"2']));
  log.logger.info('refused: hunter"2 is not the password');
  log.logger.debug("below the level");
  expect(written.length).toBe(1);
  expect(JSON.parse(written[0] ?? "")).toEqual({
    level: 30,
    time: expect.stringMatching(/^\d{4}-.*Z$/),
    msg: "refused: (hidden) is not the password",
  });
  expect(log.recent.join()).not.toContain("hunter");
});

test("on a terminal they are readable, and what a plugin or a device says can't play with it", () => {
  const log = new AgentLog({ level: "info", terminal: true });
  log.logger.warn("plugin evil: \u001b[2Jgone\u0007 \u009b31m\nnext");
  const [line = ""] = written;
  expect(line.replaceAll(/\u001b\[\d+m/g, "")).toMatch(
    /^\d\d:\d\d:\d\d warn {2}plugin evil: \ufffd\[2Jgone\ufffd \ufffd31m\n {4}next\n$/,
  );
});

test("a line that hiding secrets has broken is written all the same, and one without end is cut", () => {
  const log = new AgentLog({ level: "info", terminal: true });
  log.hide((text) => text.replaceAll('"msg":', ""));
  log.logger.warn("as it stands");
  expect(written[0]).toContain("as it stands");
  log.hide((text) => text);
  log.logger.warn("x".repeat(1_000_000));
  expect(log.recent.at(-1)?.length).toBeLessThan(9_000);
  log.logger.warn("device \u202egpj.exe");
  expect(written[2]).toContain("device \ufffdgpj.exe");
});
