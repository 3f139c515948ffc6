/** The configuration's JSON Schema: for editors, for docs/configuration.md, and to say what a wrong key may have meant. */
import { z } from "zod";
import { configSchema } from "./schema.ts";

/** A node of a JSON Schema, as far as it is looked at here. */
export interface SchemaNode {
  readonly type?: string | readonly string[];
  /** what a text stands for */
  readonly title?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly items?: SchemaNode;
  readonly anyOf?: readonly SchemaNode[];
  readonly allOf?: readonly SchemaNode[];
  readonly properties?: Readonly<Record<string, SchemaNode>>;
  readonly additionalProperties?: SchemaNode | boolean;
}

let made: SchemaNode | undefined;

/** The JSON Schema of weir.yaml (draft 2020-12), as it is written, before defaults. */
export function configJsonSchema(): SchemaNode {
  made ??= {
    ...z.toJSONSchema(configSchema, { io: "input", unrepresentable: "any" }),
    title: "Weir's configuration (weir.yaml)",
  } as SchemaNode;
  return made;
}

/** The keys that may stand under a path, without names that are free to choose. */
export function knownKeys(path: readonly PropertyKey[]): readonly string[] {
  return [...new Set(nodesAt(path).flatMap(({ properties }) => Object.keys(properties ?? {})))];
}

/** What may stand at a path: names of JSON's types; empty where anything may, or nothing. */
export function knownTypes(path: readonly PropertyKey[]): ReadonlySet<string> {
  return new Set(
    nodesAt(path).flatMap(({ type = [], const: only }) => (only === undefined ? type : typeof only)),
  );
}

/** The nodes that may describe what stands at a path. */
function nodesAt(path: readonly PropertyKey[]): readonly SchemaNode[] {
  let nodes: readonly SchemaNode[] = [configJsonSchema()];
  for (const key of path) nodes = nodes.flatMap((node) => children(node, key));
  return nodes.flatMap((node) => alternatives(node));
}

const alternatives = (node: SchemaNode): readonly SchemaNode[] => [
  node,
  ...[...(node.anyOf ?? []), ...(node.allOf ?? [])].flatMap(alternatives),
];

function children(node: SchemaNode, key: PropertyKey): readonly SchemaNode[] {
  return alternatives(node).flatMap(({ properties, additionalProperties, items }) => {
    const named = typeof key === "string" && properties !== undefined && Object.hasOwn(properties, key);
    const found = named ? properties[key] : (items ?? additionalProperties);
    return typeof found === "object" ? [found] : [];
  });
}
