/** What an accepted client sends besides messages: acknowledgements, subscriptions, pings and its goodbye. */
import type { ClientConnection } from "./listener-connection.ts";
import type { ListenerHost } from "./listener-host.ts";
import type { Session } from "./listener-session.ts";
import { readAck, readDisconnect } from "./mqtt-read.ts";
import { Reason, Type } from "./mqtt-wire.ts";
import { encodePacket } from "./mqtt-write.ts";

const PINGRESP = Buffer.from([Type.pingresp << 4, 0]);
/** The low half of the first byte where it is not 0 [MQTT-2.2.2-1]. */
const LITTLE_BITS = new Map<number, number>([
  [Type.pubrel, 2],
  [Type.subscribe, 2],
  [Type.unsubscribe, 2],
]);

/** Why a connection has to end, and the reason code that an MQTT 5 client is told. */
export type Breach = readonly [why: string, reason: number];

const malformed = (what: string): Breach => [`${what} is malformed`, Reason.malformed];
const broken = (what: string, reason: number | undefined): Breach | undefined => {
  if (reason === undefined) return undefined;
  return reason === Reason.malformed ? malformed(what) : [`${what} says what it may not`, reason];
};

/**
 * Takes a packet that is neither CONNECT nor PUBLISH.
 * @param first the packet's first byte; its body lies from `from` to `to`
 * @returns why the connection has to end, with the reason code, or undefined
 */
export function takeControl(
  connection: ClientConnection,
  session: Session,
  { keeps }: Pick<ListenerHost, "keeps">,
  first: number,
  bytes: Buffer,
  from: number,
  to: number,
): Breach | undefined {
  const type = first >> 4;
  if ((first & 15) !== (LITTLE_BITS.get(type) ?? 0)) return malformed("a packet's flags"); // [MQTT-2.2.2-2]
  const { version } = connection;
  switch (type) {
    case Type.pingreq:
      if (to !== from) return malformed("a PINGREQ");
      connection.write(PINGRESP);
      return undefined;
    case Type.puback:
    case Type.pubrec:
    case Type.pubrel:
    case Type.pubcomp: {
      const ack = readAck(bytes, from, to, version);
      if (ack === undefined) return malformed("an acknowledgement");
      if (type === Type.pubrel) release(connection, session, ack.id);
      else session.acknowledged(type, ack.id, ack.reason >= 0x80);
      return undefined;
    }
    case Type.subscribe:
      return broken("a SUBSCRIBE", session.subscribe(connection, bytes, from, to));
    case Type.unsubscribe:
      return broken("an UNSUBSCRIBE", session.unsubscribe(connection, bytes, from, to));
    case Type.disconnect: {
      const goodbye = readDisconnect(bytes, from, to, version);
      if (goodbye === undefined) return malformed("a DISCONNECT");
      const { reason, sessionExpiryS = session.expiryS } = goodbye;
      // A session that was to end with its connection can't be kept after all [5: MQTT-3.1.2.11.2].
      if (session.expiryS === 0 && sessionExpiryS > 0)
        return ["a DISCONNECT is to keep a session that was to end", Reason.protocolError];
      session.expiryS = keeps(sessionExpiryS);
      if (reason !== Reason.withWill) connection.will = undefined; // [MQTT-3.1.2-10]
      connection.close();
      return undefined;
    }
    default:
      // A second CONNECT [MQTT-3.1.0-2], AUTH where none was begun [5: 4.12], what only brokers send, types that don't exist.
      return ["a packet of a type that clients don't send here", Reason.protocolError];
  }
}

/** MQTT 3.1.1 answers an unknown identifier, too: the client must come to an end with it. */
function release(connection: ClientConnection, { open }: Session, id: number): void {
  const known = open.delete(id);
  const reason = known || connection.version !== 5 ? [] : [Reason.unknownId];
  connection.write(encodePacket(Type.pubcomp << 4, [id >> 8, id & 255, ...reason]));
}
