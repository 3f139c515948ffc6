/** Which topics of the embedded broker are Weir's own, and which nobody may publish on. */

const TOPIC_LENGTH = 1024;
/** What others send to Weir: open to identities with a rule that names it. */
const INBOUND = /^weir\/v1\/[^/]+\/in\/./;

/** Whether a topic is Weir's own, where nobody else publishes. */
export const isOwn = (topic: string): boolean => topic === "weir" || topic.startsWith("weir/");

/** Why nobody outside may publish on a topic, or undefined. `levels`: the most that it may have. */
export function publishProblem(topic: string, levels: number): string | undefined {
  if (isOwn(topic) && !INBOUND.test(topic)) return "only Weir publishes under weir/";
  if (topic.startsWith("$")) return "topics that begin with $ are the broker's"; // [MQTT-4.7.2-1]
  if (topic.length > TOPIC_LENGTH) return `the topic is over ${TOPIC_LENGTH} characters`;
  if (topic.split("/").length > levels) return `the topic has over ${levels} levels`;
  return undefined;
}
