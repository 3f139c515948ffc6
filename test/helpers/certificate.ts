/** Certificates for tests, by Debian's openssl. */
import { spawnSync } from "node:child_process";
import { chmodSync } from "node:fs";
import { join } from "node:path";

/** Makes `<name>.pem` and `<name>.key` in `dir`: signed by itself, for 127.0.0.1 unless another name is given. */
export function selfSigned(dir: string, name: string, subject = "IP:127.0.0.1"): void {
  const at = (ending: string): string => join(dir, `${name}.${ending}`);
  const key = `-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ${at("key")}`;
  const args = `req -x509 ${key} -days 2 -subj /CN=${name} -addext subjectAltName=${subject} -out ${at("pem")}`;
  const made = spawnSync("openssl", args.split(" "));
  if (made.status !== 0) throw new Error(String(made.stderr));
  // A broker that has its own user reads it, too.
  chmodSync(dir, 0o755);
  chmodSync(at("key"), 0o644);
}
