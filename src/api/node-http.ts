/**
 * Node's HTTP, without the client of another kind (undici) that hangs on it: a static import of `node:http` reads every one of its
 * exports, lazy ones too. That is 40 ms of the start and 8 MB.
 */
const http: typeof import("node:http") = process.getBuiltinModule("node:http");

export const createServer: typeof http.createServer = http.createServer;
export const request: typeof http.request = http.request;
