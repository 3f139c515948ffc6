/** How connections to brokers are secured: files from the configuration, read anew for each connection. */
import { readFileSync } from "node:fs";

/** The `tls` part of a source's or an uplink's options; paths of PEM files. */
export interface TlsFiles {
  /** authorities to trust, instead of the system's */
  readonly ca?: string | undefined;
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  /** default: the host */
  readonly servername?: string | undefined;
  readonly alpn?: string | undefined;
}

/** What `tls.connect` and mqtt.js take. */
export interface TlsOptions {
  readonly minVersion: "TLSv1.2";
  readonly servername?: string;
  readonly ALPNProtocols?: string[];
  readonly ca?: Buffer;
  readonly cert?: Buffer;
  readonly key?: Buffer;
}

/**
 * Options for one connection to `host`: TLS 1.2 at the least, the certificate checked. The files are read now, so that one
 * that was renewed is used without a restart.
 * @throws the file system's error when a file can't be read
 */
export function tlsOptions({ ca, cert, key, servername, alpn }: TlsFiles, host: string): TlsOptions {
  // RFC 6066, 3: an address is no server name.
  const isAddress = /^[\d.]+$|:/.test(host);
  return {
    minVersion: "TLSv1.2",
    ...(isAddress && servername === undefined ? {} : { servername: servername ?? host }),
    ...(alpn === undefined ? {} : { ALPNProtocols: [alpn] }),
    ...(ca === undefined ? {} : { ca: readFileSync(ca) }),
    ...(cert === undefined ? {} : { cert: readFileSync(cert) }),
    ...(key === undefined ? {} : { key: readFileSync(key) }),
  };
}
