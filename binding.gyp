{
  "variables": {
    "weir_c_flags": ["-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-fstack-protector-strong"],
  },
  "targets": [
    {
      "target_name": "weir",
      "sources": [
        "native/addon.cc",
        "native/binding/hash.cc",
        "native/binding/module.cc",
        "native/binding/probe.cc",
        "native/binding/process_rows.cc",
        "native/binding/sampler.cc",
        "native/bpf/connections.c",
        "native/bpf/probes.c",
        "native/hash/crc32c.cc",
        "native/hash/hash.cc",
        "native/hash/siphash.cc",
        "native/hash/upstream_dispatch.c",
        "native/hash/upstream_xxhash.c",
        "native/memory/trim.c",
        "native/net/connections.cc",
        "native/net/listeners.cc",
        "native/net/sock_diag.cc",
        "native/perf/counters.c",
        "native/perf/perf_ring.cc",
        "native/perf/sampler.cc",
        "native/ring/process_rows.cc",
        "native/ring/ring.cc",
        "native/service/capabilities.cc",
        "native/service/notify.cc",
      ],
      "include_dirs": [
        "<!(node -p \"require('node-addon-api').include_dir\")",
        # xxHash's sources, which that package carries.
        "<!(node -p \"require('path').join(require.resolve('xxhash-addon/package.json'), '..', 'xxHash')\")",
        "native/bpf/include",
      ],
      "defines": ["NAPI_VERSION=8", "NAPI_DISABLE_CPP_EXCEPTIONS", "NODE_ADDON_API_DISABLE_DEPRECATED"],
      "cflags": ["<@(weir_c_flags)"],
      "cflags_c": ["-std=gnu11"],
      "cflags_cc!": ["-std=gnu++17"],
      "cflags_cc": ["-std=gnu++20"],
      "ldflags": ["-Wl,-z,relro,-z,now"],
    },
    {
      # The plugin jail's launcher: a small program of its own, not part of the addon.
      "target_name": "weir-jail",
      "type": "executable",
      "sources": [
        "native/jail/launcher.c",
        "native/jail/report.c",
        "native/jail/layers.c",
        "native/jail/cgroup.c",
        "native/jail/landlock.c",
        "native/jail/seccomp.c",
      ],
      "variables": {
        # Static where the C library allows it: the launcher then starts faster and depends on nothing it walls off.
        "static_flag": "<!(echo 'int main(void) { return 0; }' | ${CC:-cc} -x c -static -o /dev/null - 2> /dev/null && echo -static || true)",
      },
      "cflags": ["<@(weir_c_flags)"],
      "cflags_c": ["-std=gnu11"],
      "ldflags!": ["-rdynamic"],
      "ldflags": ["-Wl,-z,relro,-z,now", "<@(static_flag)"],
    },
    {
      # What the launcher has preloaded into Node: it gives back memory that only the start needed.
      "target_name": "weir-trim",
      "type": "loadable_module",
      "sources": ["native/jail/trimmer.c", "native/memory/trim.c"],
      "cflags": ["<@(weir_c_flags)"],
      "cflags_c": ["-std=gnu11"],
      "ldflags": ["-Wl,-z,relro,-z,now"],
    },
  ],
}
