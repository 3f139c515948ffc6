// Scale: value * factor + offset for the metrics that a rule names, with a new name and unit where the rule gives them.
// The first rule that matches wins; every other row passes as it came. Nothing is kept between calls, but what the rules
// make of each metric name.
//
// The engine is QuickJS: a frame arrives as plain arrays that are ours to change.

const NUMBER = 0;
const INTEGER = 1;
const NULL = 5;
const QUALITY = 3;
const BAD = 2;
const CONTROL = /\p{Cc}/u;
/** Names seen so far; a device that invents names must not fill the memory. */
const MAX_PLANS = 4096;

let rules = [];
const plans = new Map();

/** `*`, at most once, stands for any characters: what it stood for, or undefined when the name doesn't match. */
function match(pattern, name) {
  const star = pattern.indexOf("*");
  if (star < 0) return pattern === name ? "" : undefined;
  const head = pattern.slice(0, star);
  const tail = pattern.slice(star + 1);
  if (name.length < head.length + tail.length || !name.startsWith(head) || !name.endsWith(tail))
    return undefined;
  return name.slice(head.length, name.length - tail.length);
}

function readRule(rule, index) {
  const at = `rules[${index}]`;
  for (const key of Object.keys(rule)) {
    if (!["metric", "factor", "offset", "decimals", "rename", "unit"].includes(key))
      throw `${at}: unknown key ${key}`;
  }
  const { metric, factor = 1, offset = 0, decimals, rename, unit } = rule;
  if (typeof metric !== "string" || metric.split("*").length > 2)
    throw `${at}.metric: a name with at most one *`;
  if (!Number.isFinite(factor) || !Number.isFinite(offset)) throw `${at}: factor and offset are numbers`;
  if (decimals !== undefined && !(Number.isInteger(decimals) && decimals >= 0 && decimals <= 9)) {
    throw `${at}.decimals: 0 to 9`;
  }
  if (rename !== undefined && (typeof rename !== "string" || !isName(rename))) throw `${at}.rename: a name`;
  if (rename?.includes("*") && (!metric.includes("*") || rename.split("*").length > 2)) {
    throw `${at}.rename: one *, and only where metric has one`;
  }
  if (unit !== undefined && typeof unit !== "string") throw `${at}.unit: a UCUM unit`;
  const scales = factor !== 1 || offset !== 0 || decimals !== undefined;
  return { metric, factor, offset, round: decimals === undefined ? 0 : 10 ** decimals, rename, unit, scales };
}

/** A device may send a name that a longer one no longer fits: the host would refuse the whole frame for it. */
function isName(name) {
  return name !== "" && encodeURIComponent(name).replace(/%../g, "_").length <= 256 && !CONTROL.test(name);
}

/** What to do with a metric: its rule and its new name, or null. */
function planFor(name) {
  let plan = plans.get(name);
  if (plan !== undefined) return plan;
  plan = null;
  for (const rule of rules) {
    const rest = match(rule.metric, name);
    if (rest === undefined) continue;
    const renamed = rule.rename === undefined ? name : rule.rename.replace("*", () => rest);
    plan = { rule, name: isName(renamed) ? renamed : name };
    break;
  }
  if (plans.size === MAX_PLANS) plans.clear();
  plans.set(name, plan);
  return plan;
}

/** Applies names and units to the dictionary, which must stay free of duplicates; where[i] is metric i's new index. */
function rename(batch, planned) {
  const metrics = [];
  const units = [];
  const index = new Map();
  const where = planned.map((plan, i) => {
    const name = plan === null ? batch.metrics[i] : plan.name;
    const unit = plan?.rule.unit ?? batch.units[i];
    const known = index.get(name);
    if (known !== undefined) {
      if (units[known] === "") units[known] = unit;
      return known;
    }
    index.set(name, metrics.length);
    units.push(unit);
    return metrics.push(name) - 1;
  });
  batch.metrics = metrics;
  batch.units = units;
  return where;
}

export const lifecycle = {
  configure(text) {
    const config = JSON.parse(text);
    if (!Array.isArray(config.rules ?? [])) throw "rules: a list";
    rules = (config.rules ?? []).map(readRule);
  },
};

export const transform = {
  transform(batch) {
    const planned = batch.metrics.map(planFor);
    if (planned.every((plan) => plan === null)) return batch;
    const where = rename(batch, planned);
    const moved = where.some((to, from) => to !== from);
    const scaled = planned.map((plan) => (plan?.rule.scales ? plan.rule : null));
    const { metric, kind, status, value } = batch;
    const rows = metric.length;
    for (let i = 0; i < rows; i++) {
      const m = metric[i];
      if (moved) metric[i] = where[m];
      const rule = scaled[m];
      if (rule === null || kind[i] > INTEGER) continue;
      let v = value[i] * rule.factor + rule.offset;
      if (rule.round !== 0 && Math.abs(v) < 1e15) v = Math.round(v * rule.round) / rule.round;
      if (Number.isFinite(v)) {
        value[i] = v + 0; // -0 is 0
        kind[i] = NUMBER;
      } else {
        value[i] = 0;
        kind[i] = NULL;
        status[i] = (status[i] & ~QUALITY) | BAD;
      }
    }
    return batch;
  },
};
