/**
 * Fills a topic template. Every value must already be safe as one topic level: gateway names, device ids and codes are
 * checked where they enter.
 */
export function fillTopic(template: string, values: Readonly<Record<string, string>>): string {
  return template.replace(/\{(\w+)\}/g, (whole, name: string) => values[name] ?? whole);
}
