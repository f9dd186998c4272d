// transformers.js continues prompts with exports: one line of JSON on standard input, one on standard output.
//
//   {"library": FILE, "folder": …, "name": …, "dtype": …, "prompts": […], "tokens": n, "messages": null or […]}
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const asked = JSON.parse(readFileSync(0, "utf8"));
const { env, AutoTokenizer, AutoModelForCausalLM } = await import(pathToFileURL(asked.library));
env.allowRemoteModels = false;
env.localModelPath = asked.folder;
const tokenizer = await AutoTokenizer.from_pretrained(asked.name);
const model = await AutoModelForCausalLM.from_pretrained(asked.name, { dtype: asked.dtype, device: "cpu" });
const inputs = tokenizer(asked.prompts, { add_special_tokens: false, padding: true });
const tokens = await model.generate({ ...inputs, max_new_tokens: asked.tokens, do_sample: false });
const chat = { tokenize: false, add_generation_prompt: true };
const prompt = asked.messages && tokenizer.apply_chat_template(asked.messages, chat);
console.log(JSON.stringify({ texts: tokenizer.batch_decode(tokens, { skip_special_tokens: true }), prompt }));
