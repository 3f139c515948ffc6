/** Topic filters (MQTT 3.1.1, 4.7): what is one, and subscriptions by filter, matched level by level. */

interface Node<V> {
  readonly children: Map<string, Node<V>>;
  /** of filters that end here */
  readonly values: V[];
  /** of filters that end in `#` below here */
  readonly rest: V[];
}

const node = <V>(): Node<V> => ({ children: new Map(), values: [], rest: [] });

/** Values by topic filter. Filters must be valid; the rule about topics that begin with `$` is the caller's. */
export class TopicTree<V> {
  readonly #root: Node<V> = node();

  add(filter: string, value: V): void {
    let at = this.#root;
    for (const level of filter.split("/")) {
      if (level === "#") {
        at.rest.push(value);
        return;
      }
      let next = at.children.get(level);
      if (next === undefined) {
        next = node();
        at.children.set(level, next);
      }
      at = next;
    }
    at.values.push(value);
  }

  /** Takes one such value away, if it is there. */
  remove(filter: string, value: V): void {
    this.#remove(this.#root, filter.split("/"), 0, value);
  }

  /** Every value whose filter matches the topic. */
  match(topic: string): V[] {
    const found: V[] = [];
    collect(this.#root, topic, 0, found);
    return found;
  }

  #remove(at: Node<V>, levels: readonly string[], depth: number, value: V): void {
    const level = levels[depth];
    if (level === undefined || level === "#") {
      const values = level === undefined ? at.values : at.rest;
      const index = values.indexOf(value);
      if (index >= 0) values.splice(index, 1);
      return;
    }
    const next = at.children.get(level);
    if (next === undefined) return;
    this.#remove(next, levels, depth + 1, value);
    if (next.children.size + next.values.length + next.rest.length === 0) at.children.delete(level);
  }
}

/** `start`: where the level begins; past the topic's end when all levels are used up. */
function collect<V>(at: Node<V>, topic: string, start: number, found: V[]): void {
  for (const value of at.rest) found.push(value);
  if (start > topic.length) {
    for (const value of at.values) found.push(value);
    return;
  }
  if (at.children.size === 0) return;
  const slash = topic.indexOf("/", start);
  const end = slash < 0 ? topic.length : slash;
  const exact = at.children.get(topic.slice(start, end));
  if (exact !== undefined) collect(exact, topic, end + 1, found);
  const any = at.children.get("+");
  if (any !== undefined) collect(any, topic, end + 1, found);
}

/** Why `filter` is no topic filter (4.7.1), or undefined when it is one. */
export function filterProblem(filter: string): string | undefined {
  if (filter === "") return "is empty"; // [MQTT-4.7.3-1]
  const levels = filter.split("/");
  if (levels.some((level) => level.length > 1 && /[+#]/.test(level))) return "has + or # inside a level";
  return levels.indexOf("#") === -1 || levels.indexOf("#") === levels.length - 1
    ? undefined
    : "has # before its end";
}
