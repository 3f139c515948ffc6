import { WeirError } from "../core/errors.ts";
import type { Invocation } from "./commands.ts";
import { profileSelf } from "./profile-self.ts";

/** `weir profile` */
export async function profile(invocation: Invocation): Promise<number> {
  if (invocation.values["self"] !== true) throw new WeirError("cli.usage", "weir profile --self");
  return await profileSelf(invocation);
}
