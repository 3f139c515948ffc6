/** Whether a value, such as one that JSON was parsed to, is an object with members: no array, and not null. */
export const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
