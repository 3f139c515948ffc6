/** `weir top`: a live view of the running agent. */
import type { ApiClient } from "../api/client.ts";
import { messageOf, WeirError } from "../core/errors.ts";
import type { Invocation } from "./commands.ts";
import { agentOf } from "./context.ts";
import { option } from "./option.ts";
import { line } from "./output.ts";
import { type Figures, figuresOf, type Look } from "./top-figures.ts";
import { Painter, screen } from "./top-view.ts";

const ENTER = "\u001b[?1049h\u001b[?25l\u001b[2J";
const LEAVE = "\u001b[?25h\u001b[?1049l";

/** `weir top` */
export async function top(invocation: Invocation): Promise<number> {
  const seconds = Number(option(invocation, "interval") ?? "2");
  if (!(seconds >= 0.2 && seconds <= 3600)) throw new WeirError("cli.usage", "--interval takes 0.2 to 3600");
  const agent = agentOf(invocation);
  const json = invocation.values["json"] === true;
  const controller = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => controller.abort());
  if (invocation.values["once"] === true) {
    const before = await look(agent);
    await pause(Math.min(seconds, 1) * 1000, controller.signal);
    show(figuresOf(before, await look(agent)), json);
    return 0;
  }
  // A dumb terminal can't move its cursor: it gets a look after the other, as a file does.
  if (json || process.stdout.isTTY !== true || process.env["TERM"] === "dumb") {
    for (let before = await look(agent); ; ) {
      await pause(seconds * 1000, controller.signal);
      if (controller.signal.aborted) return 0;
      const now = await look(agent);
      show(figuresOf(before, now), json);
      before = now;
    }
  }
  return await live(agent, seconds, controller);
}

async function look(agent: ApiClient): Promise<Look> {
  const [status, ledger, outbox, plugins, probes, vitals] = await Promise.all([
    agent.status(),
    agent.ledger(),
    agent.outbox(),
    agent.plugins(),
    agent.probes(),
    agent.vitals(),
  ]);
  return { status, ledger, outbox, plugins, probes, vitals };
}

function show(figures: Figures, json: boolean): void {
  if (json) line(JSON.stringify(figures));
  else line(`${screen(figures, 120, 200).join("\n")}\n`);
}

/** On a terminal, until q or Ctrl-C. While the agent is away, as over a restart, it says so and waits for it. */
async function live(agent: ApiClient, seconds: number, controller: AbortController): Promise<number> {
  const { stdin, stdout } = process;
  const painter = new Painter();
  const onKey = (key: Buffer): void => {
    if (/[q\u0003]/.test(key.toString())) controller.abort();
  };
  stdout.write(ENTER);
  stdout.on("resize", () => stdout.write(painter.forget()));
  stdin.setRawMode?.(true);
  stdin.on("data", onKey);
  try {
    let before: Look | undefined;
    while (!controller.signal.aborted) {
      let lines: string[];
      // The first look has no rates: the second one soon follows.
      const waitMs = before === undefined ? Math.min(seconds * 1000, 500) : seconds * 1000;
      try {
        const now = await look(agent);
        lines = screen(figuresOf(before ?? now, now), stdout.columns || 80, stdout.rows || 24);
        before = now;
      } catch (thrown) {
        before = undefined;
        lines = [`${messageOf(thrown)}; waiting for it`];
      }
      stdout.write(painter.paint(lines));
      await pause(before === undefined ? 1000 : waitMs, controller.signal);
    }
    return 0;
  } finally {
    stdin.setRawMode?.(false);
    stdin.pause();
    stdout.write(LEAVE);
  }
}

function pause(waitMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, waitMs);
    signal.addEventListener("abort", done);
  });
}
