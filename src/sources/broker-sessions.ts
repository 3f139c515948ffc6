/** The sessions of the embedded broker, by identity and client id: which there are, and when each ends. */
import type { Identity } from "./broker-access.ts";
import type { ClientConnection } from "./listener-connection.ts";
import { Session, type SessionHost } from "./listener-session.ts";
import type { Will } from "./mqtt-read.ts";

/** What the sessions ask of the broker. */
export interface SessionsHost extends SessionHost {
  /** sessions of clients that are away, at most */
  readonly sessions: number;
  /** A client will not be back in time: its will is due. */
  willDue(will: Will, identity: Identity, devices: ReadonlySet<string>): void;
  /** A session had to go because there are too many. */
  sessionDropped(): void;
}

/** All sessions. */
export class Sessions {
  readonly #host: SessionsHost;
  readonly #all = new Map<string, Session>();
  /** of clients that are away, the longest away first */
  readonly #away = new Map<string, Session>();

  constructor(host: SessionsHost) {
    this.#host = host;
  }

  /**
   * The session of a client that has just been let in. A client id is its identity's own: nobody takes over another's.
   * `before` is a connection that the client has now left, to be ended [MQTT-3.1.4-2].
   */
  join(
    clientId: string,
    identity: Identity,
    clean: boolean,
  ): { readonly session: Session; readonly present: boolean; readonly before: ClientConnection | undefined } {
    const key = keyOf(clientId, identity);
    const known = this.#all.get(key);
    const before = known?.connection;
    this.#away.delete(key);
    if (known !== undefined && !clean && known.expiryS > 0) {
      known.detach();
      return { session: known, present: true, before };
    }
    if (known !== undefined) this.#end(key, known);
    const session = new Session(clientId, identity, this.#host);
    this.#all.set(key, session);
    return { session, present: false, before };
  }

  /** A connection is gone. `will` is due then, or after its delay if the session goes on without the client. */
  leave(connection: ClientConnection, session: Session, will: Will | undefined, nowMs: number): void {
    const key = keyOf(session.clientId, session.identity);
    const devices = connection.devices;
    const isOver = this.#all.get(key) !== session;
    if (isOver || session.connection !== connection) {
      // Taken over: the client is back, so a will that can wait is not due [5: 3.1.3.2.2].
      if (will !== undefined && (isOver || will.delayS === 0))
        this.#host.willDue(will, session.identity, devices);
      return;
    }
    session.detach();
    const waits = will !== undefined && will.delayS > 0 && session.expiryS > 0;
    if (waits) session.will = { will, atMs: nowMs + will.delayS * 1000, devices: new Set(devices) };
    else if (will !== undefined) this.#host.willDue(will, session.identity, devices);
    if (session.expiryS === 0) {
      this.#end(key, session);
      return;
    }
    session.endsMs = nowMs + session.expiryS * 1000;
    this.#away.set(key, session);
    for (const [oldest, victim] of this.#away) {
      if (this.#away.size <= this.#host.sessions) break;
      this.#end(oldest, victim);
      this.#host.sessionDropped();
    }
  }

  /** Ends what is over, and publishes wills that are due. */
  sweep(nowMs: number): void {
    for (const [key, session] of this.#away) {
      if (nowMs >= session.endsMs) this.#end(key, session);
      else if (session.will !== undefined && nowMs >= session.will.atMs) this.#sendWill(session);
    }
  }

  #end(key: string, session: Session): void {
    this.#all.delete(key);
    this.#away.delete(key);
    this.#sendWill(session);
    session.end();
  }

  #sendWill(session: Session): void {
    const { will, identity } = session;
    session.will = undefined;
    if (will !== undefined) this.#host.willDue(will.will, identity, will.devices);
  }
}

const keyOf = (clientId: string, { name }: Identity): string => `${name}\0${clientId}`;
