/** The `broker` section of weir.yaml: Weir's own broker, who may come, and how much of everything there may be. */
import { z } from "zod";
import { isLoopback } from "../core/ip-address.ts";
import { isPasswordHash } from "../core/password.ts";
import { filterProblem } from "./topic-tree.ts";

const file = z.string().min(1).max(4096);
const filters = z
  .array(
    z
      .string()
      .max(1024)
      .check((context) => {
        const problem = filterProblem(context.value);
        if (problem !== undefined)
          context.issues.push({ code: "custom", message: `the filter ${problem}`, input: context.value });
      }),
  )
  .max(256);

const identitySchema = z
  .strictObject({
    passwordHash: z
      .string()
      .refine(isPasswordHash, "expected what `weir passwd` prints; a password itself never stands here")
      .optional()
      .describe("hash of the password, as `weir passwd` prints it; better given as a file's content"),
    certificate: z
      .string()
      .min(1)
      .max(256)
      .optional()
      .describe(
        "common name of the client certificate that is this one's; *: any that tls.ca signed, by its own name",
      ),
    publish: filters.optional().describe("topic filters it may publish on; default: broker.rules.publish"),
    subscribe: filters
      .optional()
      .describe("topic filters it may subscribe to; default: broker.rules.subscribe"),
  })
  .refine(({ passwordHash, certificate }) => passwordHash !== undefined || certificate !== undefined, {
    error: "needs a passwordHash or a certificate; one whose hash is in identitiesFile needs no entry here",
  });

/** The embedded broker. */
export const brokerSchema = z
  .strictObject({
    enabled: z.boolean().default(true).describe("whether Weir has a broker of its own for devices"),
    host: z
      .string()
      .min(1)
      .max(255)
      .default("127.0.0.1")
      .describe("the address to listen on without TLS; beyond the loopback only with identities"),
    port: z.number().int().min(0).max(65_535).default(1883).describe("0: any free one"),
    anonymous: z
      .boolean()
      .optional()
      .describe(
        "whether clients on this machine may come without a name; default: when there are no identities",
      ),
    identities: z
      .record(
        z
          .string()
          .regex(/^[^\u0000-\u001f\u007f:]{1,128}$/, "expected 1-128 printable characters without a colon"),
        identitySchema,
      )
      .default({})
      .describe("who may connect, by password or certificate, and what they may do"),
    identitiesFile: file
      .optional()
      .describe(
        "file of more identities, a line each: name:hash, as `weir passwd --name` prints it; read at the start",
      ),
    rules: z
      .strictObject({
        publish: filters.default(["#"]).describe("{identity} and {clientid} stand for one level each"),
        subscribe: filters.default(["#"]).describe("the same for what they may receive"),
      })
      .prefault({})
      .describe("topic rules of clients whose identity has none of its own"),
    tls: z
      .strictObject({
        host: z.string().min(1).max(255).default("0.0.0.0").describe("the address to listen on"),
        port: z.number().int().min(0).max(65_535).default(8883).describe("0: any free one"),
        cert: file.describe("file of the broker's certificate, with what it was signed by"),
        key: file.describe("file of its key"),
        ca: file.optional().describe("file of the authority that signs client certificates"),
        clients: z
          .enum(["none", "optional", "required"])
          .default("none")
          .describe("client certificates: not asked for, checked where there is one, or required"),
      })
      .refine(({ ca, clients }) => (clients === "none") === (ca === undefined), {
        error: "ca goes with clients: optional or required",
        path: ["ca"],
      })
      .optional()
      .describe("a second port, with TLS"),
    limits: z
      .strictObject({
        connections: z
          .number()
          .int()
          .min(1)
          .max(100_000)
          .default(1000)
          .describe("at a time, on each port; further ones are closed"),
        packetKiB: z.number().int().min(1).max(260).default(260).describe("greatest packet"),
        topicLevels: z.number().int().min(1).max(64).default(64).describe("of a topic that is published on"),
        subscriptions: z.number().int().min(0).max(4096).default(256).describe("of one client"),
        messagesPerSecond: z
          .number()
          .int()
          .min(0)
          .max(10_000_000)
          .default(0)
          .describe("of one connection: a faster one is slowed down; 0: no limit"),
        retainedMessages: z
          .number()
          .int()
          .min(0)
          .max(1_000_000)
          .default(16_384)
          .describe("of all clients; the longest unchanged go first"),
        retainedMiB: z
          .number()
          .int()
          .min(0)
          .max(1024)
          .default(64)
          .describe("of all of them together, with their topics"),
        sessions: z
          .number()
          .int()
          .min(0)
          .max(100_000)
          .default(1000)
          .describe("of clients that are away; the longest away go first. 0: none is kept"),
        sessionExpiryS: z
          .number()
          .int()
          .min(0)
          .max(2 ** 32 - 1)
          .default(86_400)
          .describe("longest that a session is kept for a client that is away"),
        queueMessages: z
          .number()
          .int()
          .min(1)
          .max(100_000)
          .default(1000)
          .describe("that wait for one client; the oldest go first"),
        queueKiB: z.number().int().min(1).max(1_048_576).default(1024).describe("of one client's, too"),
        queuesMiB: z.number().int().min(1).max(16_384).default(64).describe("of all clients' together"),
      })
      .prefault({}),
  })
  .check((context) => {
    const { anonymous, identities, identitiesFile, host, tls, enabled } = context.value;
    if (!enabled) return;
    const problem = (path: string[], message: string): void => {
      context.issues.push({ code: "custom", message, input: context.value, path });
    };
    const nobody = Object.keys(identities).length === 0 && identitiesFile === undefined;
    const remedy = "add broker.identities or broker.identitiesFile, or take 127.0.0.1";
    if (nobody && anonymous === false) problem(["anonymous"], `nobody could connect: ${remedy}`);
    if (nobody && !isLoopback(host))
      problem(["host"], `clients without a name are let in on the loopback only: ${remedy}`);
    if (nobody && tls !== undefined && !isLoopback(tls.host))
      problem(["tls", "host"], `clients without a name are let in on the loopback only: ${remedy}`);
    const wantsCertificates = Object.values(identities).some(({ certificate }) => certificate !== undefined);
    if (wantsCertificates && (tls === undefined || tls.clients === "none"))
      problem(
        ["tls"],
        "an identity has a certificate: set broker.tls with ca, and clients: optional or required",
      );
  })
  .prefault({});

/** The embedded broker's options. */
export type BrokerOptions = z.infer<typeof brokerSchema>;
