import { expect, test } from "vitest";
import { ipAddress } from "../../src/core/ip-address.ts";

test("addresses are written as RFC 5952 says, IPv4 ones in their own form", () => {
  const of = (hex: string): string => ipAddress(Buffer.from(hex.replaceAll(" ", ""), "hex"));
  expect(of("0000 0000 0000 0000 0000 ffff 0a01 02ff")).toBe("10.1.2.255");
  expect(of("0000 0000 0000 0000 0000 0000 0000 0000")).toBe("::");
  expect(of("0000 0000 0000 0000 0000 0000 0000 0001")).toBe("::1");
  expect(of("fe80 0000 0000 0000 0000 0000 0000 0000")).toBe("fe80::");
  expect(of("2001 0db8 0000 0000 0001 0000 0000 0001")).toBe("2001:db8::1:0:0:1");
  expect(of("2001 0db8 0000 0001 0001 0001 0001 0001")).toBe("2001:db8:0:1:1:1:1:1");
  expect(of("2001 0000 0000 0001 0000 0000 0000 0001")).toBe("2001:0:0:1::1");
});
