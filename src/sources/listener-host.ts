/** What a client's connection asks of the broker around it. */
import type { Intake } from "../core/ports.ts";
import type { Identity } from "./broker-access.ts";
import type { ClientConnection } from "./listener-connection.ts";
import type { Session, SessionHost } from "./listener-session.ts";
import type { KnownTopic, TopicTable } from "./listener-topics.ts";
import type { Connect, PublishAbout } from "./mqtt-read.ts";

/** Bounds that the configuration sets. */
export interface ListenerLimits {
  /** greatest remaining length of a packet, in bytes */
  readonly packetBytes: number;
  /** messages a second of one connection; 0: no limit */
  readonly messagesPerSecond: number;
}

/** The broker, as its connections see it. */
export interface ListenerHost extends SessionHost {
  readonly limits: ListenerLimits;
  readonly topics: TopicTable;
  readonly intake: Intake | undefined;
  /** Whether bytes of a connection that holds so many messages must wait because of what all hold. */
  isShut(connection: ClientConnection, heldMessages: number): boolean;
  /** Notes bytes held (or, below 0, settled) by one of the connections. */
  hold(bytes: number): void;
  /** Has `flush` called once what happens now is over. */
  later(connection: ClientConnection): void;
  /** Who the client is; a reason code when it may not be. Never rejects. */
  admit(connection: ClientConnection, connect: Connect): Promise<Identity | number>;
  /** The client may go on: it takes over its id. Answers its session, and whether that was there before. */
  join(
    connection: ClientConnection,
    connect: Connect,
    identity: Identity,
  ): { session: Session; present: boolean };
  /** seconds for which a session is kept that asks for so many */
  keeps(seconds: number): number;
  /** A message that no rule matches. */
  unmatched(): void;
  /** Whether anybody wants messages of a topic. */
  isWanted(known: KnownTopic): boolean;
  /** Passes a message on to subscribers, and keeps it when it is to be retained. */
  pass(
    known: KnownTopic,
    payload: Uint8Array,
    qos: 0 | 1 | 2,
    retain: boolean,
    about: PublishAbout | undefined,
    from: ClientConnection,
  ): void;
}
