// Does nothing: `weir check` starts it in the jail to see which layers stand on this machine.
export {};
