/** How connections to brokers are secured: files from the configuration, read anew for each connection. */
import { readFileSync } from "node:fs";
import { z } from "zod";

const file = z.string().min(1).max(4096).optional();

/** The `tls` part of a source's or an uplink's options; paths of PEM files. */
export const tlsFilesSchema = z
  .strictObject({
    ca: file.describe("file of the authorities to trust, instead of the system's"),
    cert: file.describe("file of the client's certificate"),
    key: file.describe("file of its key"),
    servername: z.string().min(1).max(255).optional().describe("default: the host of the url"),
    alpn: z.string().min(1).max(64).optional().describe("protocol to ask for in the handshake"),
  })
  .prefault({})
  .refine(({ cert, key }) => (cert === undefined) === (key === undefined), "cert and key go together");

/** The same, read. */
export type TlsFiles = z.infer<typeof tlsFilesSchema>;

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
