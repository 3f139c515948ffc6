/** The `tls` part of the options of whatever connects to a broker. */
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

/** Why these files would be of no use: none of the brokers is spoken to with TLS. */
export function tlsProblem(files: TlsFiles, urls: readonly string[]): string | undefined {
  const given = Object.values(files).some((value) => value !== undefined);
  if (!given || urls.some((url) => /^(?:mqtts|wss):/.test(url))) return undefined;
  return "nothing is encrypted on mqtt:// and ws://: mqtts:// and wss:// are";
}

/** The same, read. */
export type TlsFiles = z.infer<typeof tlsFilesSchema>;
