/** From a topic to a device: the mapping rules, first match wins. */
import { FrameLimits, utf8Length } from "../core/frame.ts";
import { percentEncode } from "../core/labels.ts";
import type { Route } from "../core/ports.ts";
import { Doorkeeper } from "./doorkeeper.ts";
import type { DeviceRule } from "./options.ts";
import { RecentMap } from "./recent-map.ts";
import { TopicPattern } from "./topic-pattern.ts";

/** Decoders of Weir's own; any other name is a plugin's. */
export const DECODERS: readonly string[] = [
  "json",
  "plain",
  "availability",
  "about",
  "senml",
  "cbor",
  "neuron",
];

/** Plugins that rules name as decoders. */
export const pluginDecoders = (rules: readonly DeviceRule[]): ReadonlySet<string> =>
  new Set(rules.flatMap(({ decoder = "json" }) => (DECODERS.includes(decoder) ? [] : [decoder])));

/** What is to be done with a topic's messages. */
export interface Verdict {
  /** the rule's findings; undefined when no rule matches. Its device is "" when the topic gives no usable id. */
  readonly route: Route | undefined;
  /** why nobody outside may publish there, or undefined */
  readonly refused: string | undefined;
}

/** Topics of a generation that are remembered. */
const REMEMBERED = 8192;
/** Longer topics, in characters, are not remembered: thousands of 64 KiB each would fill the memory. */
const KEPT_LENGTH = 256;
/** What may not stand in a device id as it is: it would be a topic's level or a wildcard, or can't be printed. */
const UNSAFE = /[/+#%\u0000-\u001f\u007f-\u009f]/g;
/** The gateway's own device, which no topic can name. */
const GATEWAY = "_gateway";

/** Matches topics against rules and remembers the latest. */
export class Router {
  readonly #rules: readonly {
    readonly topic: TopicPattern;
    readonly skip: readonly TopicPattern[];
    readonly plugin: string | undefined;
  }[];
  readonly #refuse: (topic: string) => string | undefined;
  readonly #first: number;
  readonly #onRoute: (route: Route) => void;
  readonly #recent = new RecentMap<Verdict>(REMEMBERED);
  readonly #door = new Doorkeeper();

  /**
   * `refuse` says why a topic is not open to others, or undefined. `first`: where these rules begin in the list that
   * routes point into. `onRoute` is told of the route of each topic that is not remembered.
   */
  constructor(
    rules: readonly DeviceRule[],
    refuse: (topic: string) => string | undefined = () => undefined,
    first = 0,
    onRoute: (route: Route) => void = () => {},
  ) {
    this.#first = first;
    this.#onRoute = onRoute;
    this.#rules = rules.map((rule) => ({
      topic: new TopicPattern(rule.topic),
      skip: rule.skip.map((pattern) => new TopicPattern(pattern)),
      plugin: rule.decoder === undefined || DECODERS.includes(rule.decoder) ? undefined : rule.decoder,
    }));
    this.#refuse = refuse;
  }

  /** Topics remembered at the moment: bounded, whatever comes in. */
  get remembered(): number {
    return this.#recent.count;
  }

  resolve(topic: string): Verdict {
    const known = this.#recent.get(topic);
    if (known !== undefined) return known;
    const refused = this.#refuse(topic);
    const verdict: Verdict = { route: refused === undefined ? this.#match(topic) : undefined, refused };
    if (topic.length <= KEPT_LENGTH && this.#door.knows(hashOf(topic))) this.#recent.set(topic, verdict);
    return verdict;
  }

  #match(topic: string): Route | undefined {
    const levels = topic.split("/");
    for (const [index, rule] of this.#rules.entries()) {
      const found = rule.topic.match(levels);
      if (found === undefined || rule.skip.some((pattern) => pattern.match(levels) !== undefined)) continue;
      const device = deviceId(found.device);
      const plugin = device === "" ? undefined : rule.plugin;
      const route = { device, channel: found.channel, plugin, rule: this.#first + index };
      this.#onRoute(route);
      return route;
    }
    return undefined;
  }
}

/** FNV-1a of its UTF-16 units. */
function hashOf(text: string): number {
  let hash = 0x811c_9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x0100_0193);
  return hash;
}

/** A device id that `deviceProblem` has nothing against, or "" when it would be over 256 bytes. */
export function deviceId(name: string): string {
  const id = name === GATEWAY ? "%5Fgateway" : name.replace(UNSAFE, percentEncode);
  return utf8Length(id) > FrameLimits.nameBytes ? "" : id;
}
