/** Mapping rules for devices and bridges that many have. Topics and payloads as their projects document them: docs/specs/mapping.md. */

/** Rules by the preset's name, in the order in which they stand without a configuration. No topic is taken by two of them. */
export const PRESETS = {
  plain: [{ topic: "devices/{device}/$about", decoder: "about" }, { topic: "devices/{device}/{channel}" }],
  zigbee2mqtt: [
    // Every pattern names a device; here it is the bridge.
    { topic: "zigbee2mqtt/{device}/devices", decoder: "about" },
    { topic: "zigbee2mqtt/{device+}/availability", skip: ["zigbee2mqtt/bridge/#"], decoder: "availability" },
    {
      topic: "zigbee2mqtt/{device+}",
      skip: ["zigbee2mqtt/bridge/#", "*/set", "*/set/+", "*/get", "*/get/+"],
    },
  ],
  tasmota: [
    { topic: "tele/{device}/SENSOR", time: "$.Time" },
    { topic: "tele/{device}/STATE", time: "$.Time" },
    { topic: "tele/{device}/LWT", decoder: "availability" },
    { topic: "tasmota/discovery/{device}/config", decoder: "about" },
  ],
  shelly: [
    // First generation.
    { topic: "shellies/{device}/online", decoder: "availability" },
    { topic: "shellies/{device}/announce", decoder: "about" },
    {
      topic: "shellies/{device}/{channel+}",
      skip: ["*/command", "*/set", "*/info", "*/settings"],
      withChannel: true,
    },
    // Second generation and later.
    { topic: "{device}/events/rpc", values: "$.params", time: "$.params.ts" },
    {
      topic: "{device}/status/{channel}",
      // Other presets' topics; and components whose status is an empty object.
      skip: [
        "devices/#",
        "zigbee2mqtt/#",
        "tele/#",
        "homie/#",
        "+/status/ble",
        "+/status/bthome",
        "+/status/knx",
        "+/status/plugs_ui",
        "+/status/ui",
      ],
      withChannel: true,
    },
    { topic: "{device}/online", decoder: "availability" },
  ],
  homie: [
    { topic: "homie/5/{device}/$state", decoder: "availability" },
    { topic: "homie/5/{device}/$description", decoder: "about" },
    { topic: "homie/5/{device}/{channel+}", skip: ["*/set"], decoder: "plain" },
    { topic: "homie/{device}/$state", decoder: "availability" },
    { topic: "homie/{device}/$name", decoder: "about" },
    { topic: "homie/{device}/{channel+}/$name", decoder: "about" },
    { topic: "homie/{device}/{channel+}/$unit", decoder: "about" },
    { topic: "homie/{device}/{channel+}", skip: ["*/set"], decoder: "plain" },
  ],
  chirpstack: [
    { topic: "application/+/device/{device}/event/up", values: "$.object", time: "$.time" },
    {
      topic: "application/+/device/{device}/event/status",
      time: "$.time",
      omit: ["$.deviceInfo", "$.deduplicationId"],
      metrics: { margin: { unit: "dB" }, batteryLevel: { unit: "%" } },
    },
  ],
  neuron: [
    {
      topic: "/neuron/+/{device}/{channel}",
      // Requests, their answers (which have tags, too) and the state of drivers.
      skip: [
        "/neuron/+/read/req",
        "/neuron/+/read/resp",
        "/neuron/+/write/req",
        "/neuron/+/write/resp",
        "/neuron/+/state/update",
      ],
      decoder: "neuron",
    },
  ],
} as const;

/** Their names. */
export const PRESET_NAMES = [
  "plain",
  "zigbee2mqtt",
  "tasmota",
  "shelly",
  "homie",
  "chirpstack",
  "neuron",
] as const satisfies readonly (keyof typeof PRESETS)[];
