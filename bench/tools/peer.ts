/**
 * The peer of bench/path: a bare aedes and an mqtt.js subscriber (QoS 1) that does nothing, in one process. No decoding, no
 * plugin, no disk: what an MQTT application in Node costs at the least. Prints the port, then waits.
 */
import { createServer } from "node:net";
import { Aedes } from "aedes";
import mqtt from "mqtt";

const broker = await Aedes.createBroker({ concurrency: 1000 });
const server = createServer(broker.handle);
await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
const address = server.address();
const port = typeof address === "object" ? address?.port : 0;
const subscriber = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`);
subscriber.on("message", () => {});
await subscriber.subscribeAsync("devices/#", { qos: 1 });
process.stdout.write(`${port}\n`);
