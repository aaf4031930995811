// OpenAI's client asks `proper serve`: BASE_URL and TOKEN from the environment, requests from stdin
// (a JSON list of bodies without `stream`); each is asked whole and streamed. JSON on stdout.

import OpenAI from "openai";
import { readFileSync } from "node:fs";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.TOKEN, maxRetries: 0 });

async function whole(body) {
  const { choices, wording, usage } = await client.chat.completions.create(body);
  const { message, finish_reason: reason } = choices[0];
  return { text: message.content, reason, wording, tokens: usage.completion_tokens };
}

async function streamed(body) {
  let [text, reason, wording, tokens] = ["", null, null, null];
  const options = { stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create({ ...body, ...options })) {
    text += chunk.choices[0]?.delta.content ?? "";
    reason = chunk.choices[0]?.finish_reason ?? reason;
    tokens = chunk.usage?.completion_tokens ?? tokens;
    wording = chunk.wording;
  }
  return { text, reason, wording, tokens };
}

/** The answer, or the error that the client makes of a refusal. */
async function told(ask, body) {
  try {
    return await ask(body);
  } catch (error) {
    return { error: error.constructor.name, status: error.status, param: error.param };
  }
}

const answers = [];
for (const body of JSON.parse(readFileSync(0, "utf8"))) {
  answers.push([await told(whole, body), await told(streamed, body)]);
}
console.log(JSON.stringify(answers));
