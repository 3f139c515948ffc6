/** The parts that a configuration wants (broker, uplinks, sources, servers): how each is made, starts and ends. */
import { HttpServer } from "./api/http.ts";
import { ApiServer } from "./api/server.ts";
import type { ApiHandlers } from "./api/types.ts";
import { WeirError } from "./core/errors.ts";
import { isLoopback } from "./core/ip-address.ts";
import type { Gap, Outgoing, Uplink } from "./core/ports.ts";
import { findNeighbour, type Neighbour } from "./neighbour.ts";
import { NEIGHBOUR } from "./neighbour-name.ts";
import { dataPaths } from "./outbox/data-folder.ts";
import { gapMessage } from "./parts.ts";
import { Forward } from "./pipeline/forward.ts";
import type { Running } from "./running.ts";
import { EmbeddedBroker } from "./sources/broker.ts";
import { KernelSource } from "./sources/kernel.ts";
import { mqttSource } from "./sources/mqtt-sources.ts";
import { SystemSource } from "./sources/system.ts";
import type { Part, PartSpec } from "./supervisor.ts";
import { LocalUplink } from "./uplink/local.ts";
import type { UplinkOptions } from "./uplink/options.ts";

/** At a stop: time to send what is due. */
const SEND_MS = 1_500;

/**
 * Every part that the configuration wants, in the order of their start.
 * @param places the place of each list of rules among all: {@link Running.placeRules}
 */
export function partSpecs(
  run: Running,
  places: ReadonlyMap<string, number>,
  answers: ApiHandlers,
): PartSpec[] {
  return [
    ...brokerSpec(run, places),
    ...Object.entries(run.config.uplinks).flatMap(([name, options]) => uplinkSpec(run, name, options)),
    ...externalSpecs(run, places),
    ...hostSpecs(run),
    ...serverSpecs(run, answers),
  ];
}

/** The embedded broker, or the one that has its port; nothing when it is switched off. It starts before the rest: what devices send waits. */
export function brokerSpec(run: Running, places: ReadonlyMap<string, number>): PartSpec[] {
  const { broker, sources } = run.config;
  if (!broker.enabled) return [];
  const first = places.get("devices") ?? 0;
  const make = (): Part => {
    const count = run.ledger.stage("source", "devices", "messages");
    const embedded = new EmbeddedBroker(broker, sources.devices, count, run.write, first, run.met);
    return {
      start: async () => {
        try {
          await embedded.start(run.presence, run.controller.signal);
          embedded.onDeviceGone((device) => run.presence.gone(device));
          run.broker = embedded;
        } catch (thrown) {
          const taken = thrown instanceof WeirError && thrown.code === "broker.port-in-use";
          run.neighbour = taken ? await neighbourOf(run, first) : undefined;
          if (run.neighbour === undefined) throw thrown;
          const { source } = run.neighbour;
          if (source !== undefined) run.external.set(NEIGHBOUR, source);
          run.neighbour.onChange(run.localChanged);
        }
        run.localChanged();
        run.effects?.run();
      },
      stop: async () => {
        const neighbour = run.neighbour;
        run.neighbour = undefined;
        run.external.delete(NEIGHBOUR);
        await neighbour?.stop(() => run.settled());
        await embedded.stop();
        await run.settled();
        await embedded.close();
        if (run.broker === embedded) run.broker = undefined;
        run.localChanged();
      },
    };
  };
  return [{ name: "broker", key: JSON.stringify([broker, sources.devices, first]), make }];
}

/** The broker that has the embedded one's port, if it is on this machine and there is something to publish on it. */
async function neighbourOf(run: Running, firstRule: number): Promise<Neighbour | undefined> {
  const { broker, sources, uplinks, gateway } = run.config;
  const uplink = Object.values(uplinks).find(({ url }) => url === "embedded");
  if (uplink === undefined || !isLoopback(broker.host)) return undefined;
  // What is said there has the epoch, which the outbox gives: the next try has it.
  if (run.ingest === undefined) return undefined;
  return await findNeighbour({
    host: broker.host,
    port: broker.port,
    rules: sources.devices,
    firstRule,
    uplink,
    status: (online) => run.statusMessage(uplink, online),
    intake: run.presence,
    signal: run.controller.signal,
    gone: () => {
      run.write(
        "warn",
        `${broker.host}:${broker.port}: the other broker has been gone for a minute: Weir listens there itself`,
      );
      void run.parts.renew("broker");
    },
    gateway: gateway.name,
    templates: Object.values(uplinks).flatMap(({ topics }) => Object.values(topics)),
    decoder: run.decoder,
    refresh: run.refresh,
    met: run.met,
    ledger: run.ledger,
    log: run.write,
  });
}

function uplinkSpec(run: Running, name: string, options: UplinkOptions): PartSpec[] {
  const outbox = run.outbox;
  const embedded = options.url === "embedded";
  const { broker, sources } = run.config;
  if (outbox === undefined || (embedded && !broker.enabled)) return [];
  const make = async (): Promise<Part> => {
    const uplink = await makeUplink(run, name, options);
    const { gateway } = run.config;
    const forward = new Forward({
      uplink,
      outbox,
      ledger: run.ledger,
      log: run.write,
      gapMessage: (gap: Gap): Outgoing => gapMessage(options, gateway.name, gap),
      limits: options,
      memory: {
        load: () => outbox.setting(`used/${name}`),
        save: (text) => outbox.setSetting(`used/${name}`, text),
      },
      appAck:
        options.appAck === undefined
          ? undefined
          : { timeoutMs: options.appAck.timeout, batches: options.appAck.batches },
    });
    return {
      start: async () => {
        await uplink.start(run.controller.signal);
        forward.start();
        run.uplinks.set(name, { uplink, forward });
      },
      stop: async () => {
        await forward.stop(SEND_MS);
        await uplink.stop();
        run.uplinks.delete(name);
      },
    };
  };
  // On the embedded broker it lives as long as that: a new one has none of its retained messages.
  const key = JSON.stringify([options, embedded ? [broker, sources.devices] : []]);
  return [{ name: `uplink ${name}`, key, make }];
}

function externalSpecs(run: Running, places: ReadonlyMap<string, number>): PartSpec[] {
  const { sources, uplinks, gateway } = run.config;
  const templates = Object.values(uplinks).flatMap(({ topics }) => Object.values(topics));
  return Object.entries(sources.mqtt).map(([key, options]) => {
    const first = places.get(`mqtt/${key}`) ?? 0;
    const make = (): Part => {
      const source = mqttSource(key, options, first, {
        gateway: gateway.name,
        templates,
        decoder: run.decoder,
        refresh: run.refresh,
        met: run.met,
        ledger: run.ledger,
        log: run.write,
      });
      return {
        start: async () => {
          await source.start(run.presence, run.controller.signal);
          run.external.set(key, source);
        },
        stop: async () => {
          await source.stop();
          await run.settled();
          await source.close();
          run.external.delete(key);
        },
      };
    };
    return { name: `source mqtt/${key}`, key: JSON.stringify([options, first, templates]), make };
  });
}

/** What the machine itself tells. May start before the loop. */
export function hostSpecs(run: Running): PartSpec[] {
  const { kernel, system } = run.config.sources;
  const signal = run.controller.signal;
  const specs: PartSpec[] = [];
  if (kernel.enabled) {
    const make = (): Part => {
      const source = new KernelSource({ ...kernel, ledger: run.ledger });
      run.kernel = source;
      return {
        start: () => source.start(run.early, signal),
        stop: async () => {
          await source.stop();
          run.kernel = undefined;
        },
      };
    };
    specs.push({ name: "kernel", key: JSON.stringify(kernel), make });
  }
  if (system.enabled) {
    const make = (): Part => {
      const source = new SystemSource({ intervalMs: system.intervalMs }, (problem) =>
        run.write("warn", problem),
      );
      return { start: () => source.start(run.early, signal), stop: () => source.stop() };
    };
    specs.push({ name: "system", key: JSON.stringify(system), make });
  }
  return specs;
}

function serverSpecs(run: Running, answers: ApiHandlers): PartSpec[] {
  const { http, data } = run.config;
  const socket = dataPaths(data.dir).socket;
  const make = (): Part => {
    run.socketRenewals = run.folderRenewals;
    return new ApiServer(socket, answers);
  };
  const specs: PartSpec[] = [{ name: "socket", key: `${socket} ${run.folderRenewals}`, make }];
  if (http.enabled) {
    const make = (): Part => {
      const server = new HttpServer(http, answers);
      run.http = server;
      return server;
    };
    specs.push({ name: "http", key: JSON.stringify(http), make });
  }
  return specs;
}

async function makeUplink(run: Running, name: string, options: UplinkOptions): Promise<Uplink> {
  const gateway = run.config.gateway.name;
  const status = (online: boolean): Outgoing => run.statusMessage(options, online);
  if (options.url === "embedded") return new LocalUplink(name, options, run.local, status);
  // Loaded only where it is used: mqtt.js takes 8 MB.
  const { MqttUplink } = await import("./uplink/mqtt.ts");
  return new MqttUplink(name, options, { gateway, status, log: run.write });
}
