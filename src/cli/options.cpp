#include "cli/options.h"

#include "cli/bench.h"
#include "cli/bench_serve.h"
#include "cli/chat.h"
#include "cli/data_build.h"
#include "cli/default_model.h"
#include "cli/doctor.h"
#include "cli/generate.h"
#include "cli/inspect.h"
#include "cli/logits.h"
#include "cli/perplexity.h"
#include "cli/serve.h"
#include "cli/synth.h"
#include "cli/tokenize.h"
#include "cli/tokenizer_train.h"
#include "cli/train.h"
#include "core/text.h"

namespace linnet::cli {
namespace {

// A subcommand whose arguments live as long as the parser, and that runs `run` with them.
template <class Args>
CLI::App* add_command(CLI::App& app, Action& action, const char* name, const char* what, std::shared_ptr<Args>& args,
                      int (*run)(const Args&)) {
  args = std::make_shared<Args>();
  CLI::App* command = app.add_subcommand(name, what);
  command->callback([&action, args, run] { action = [args, run] { return run(*args); }; });
  return command;
}

// A command that only holds others: `linnet tokenizer train`.
CLI::App* add_group(CLI::App& app, const char* name, const char* what) {
  CLI::App* group = app.add_subcommand(name, what);
  group->require_subcommand(1);
  return group;
}

void add_model(CLI::App* c, std::filesystem::path& model, const std::string& what) {
  CLI::Option* option =
      c->add_option("-m,--model", model, what + " (default: $LINNET_MODEL, else Linnet's own)")->type_name("DIR");
  if (const auto found = default_model()) model = *found;
  else option->required();
}

void add_engine(CLI::App* c, EngineArgs& a) {
  add_model(c, a.model, "checkpoint folder: config.json, safetensors, tiktoken.model");
  c->add_option("-t,--threads", a.threads, "threads (default: one per physical core)");
  c->add_option("-c,--context", a.context, "longest sequence, tokens (default: the model's, or what memory holds)");
  c->add_option(
      "--tokens-per-pass", a.tokens_per_pass,
      "tokens that go through the model together (default: what fits in 96 MiB of activations, at most 2048)");
  c->add_option("--latent", a.latent,
                "type of the latent cache, f32 or bf16 (default: f32 for f32 weights, else bf16)");
  c->add_option(
      "--parity", a.parity,
      "where public implementations differ, a list of: biased-router, latent-eps=X, double-round, bf16-decay; "
      "remote = all four, as the published remote code (default: none, as vLLM and transformers 5.17)");
}

void add_sampling(CLI::App* c, SamplingArgs& a) {
  c->add_option("-n,--max-tokens", a.max_tokens, "new tokens at most, -1: no limit (default: -1)");
  c->add_option("--temperature", a.temperature, "0: always the most probable token (default: the model's, else 1)");
  c->add_flag("--greedy", a.greedy, "the same as --temperature 0");
  c->add_option("--top-k", a.top_k, "draw from the k most probable tokens, 0: all (default: the model's, else 0)");
  c->add_option("--top-p", a.top_p, "draw from the fewest tokens with this probability (default: the model's, else 1)");
  c->add_option("--min-p", a.min_p,
                "drop tokens less probable than this share of the best one (default: the model's, else 0)");
  c->add_option("--repetition-penalty", a.repetition_penalty,
                "divide positive logits of seen tokens by this, multiply negative (default: the model's, else 1)");
  c->add_option("--presence-penalty", a.presence_penalty, "lower logits of seen tokens by this (default: 0)");
  c->add_option("--frequency-penalty", a.frequency_penalty, "and by this for each time seen (default: 0)");
  c->add_option("--penalty-window", a.penalty_window, "latest tokens that count as seen, 0: all (default: 0)");
  c->add_option("--seed", a.seed,
                "of the random draws; same seed, same text (default: a fresh one, told with the timing)");
  c->add_option("--stop", a.stops, "end before this text; may be repeated")->take_all()->expected(1);
  c->add_option("--logit-bias", a.logit_bias, "ID=VALUE added to a token's logit, -inf forbids it; may be repeated")
      ->take_all()
      ->expected(1)
      ->type_name("ID=VALUE");
  c->add_flag("--ignore-eos", a.ignore_eos, "go on after end tokens");
  c->add_flag("--show-specials", a.show_specials, "write the names of control tokens into the text");
}

void add_text(CLI::App* c, TextSource& source, const char* long_name, const char* what) {
  auto* text = c->add_option(cat("-p,--", long_name), source.text, what);
  c->add_option(cat("--", long_name, "-file"), source.file,
                cat(what, " from a file, - for stdin (default: stdin, unless it is a terminal)"))
      ->type_name("FILE")
      ->excludes(text);
}

void add_generate(CLI::App& app, Action& action) {
  std::shared_ptr<GenerateArgs> a;
  CLI::App* c = add_command(app, action, "generate", "Continue a prompt", a, run_generate);
  add_engine(c, a->engine);
  add_text(c, a->prompt, "prompt", "text to continue, every byte of it");
  c->add_flag("--parse-specials", a->parse_specials,
              "names of control tokens in the prompt are control tokens (default: they are text)");
  c->add_flag("--bos", a->bos, "begin with the BOS token");
  auto* schema = c->add_option("--json-schema", a->json_schema,
                               "the text is a value of the JSON schema in this file (docs/constrained-output.md)");
  schema->type_name("FILE");
  c->add_flag("--json-object", a->json_object, "the text is a JSON object")->excludes(schema);
  add_sampling(c, a->sampling);
  c->add_flag("--json", a->json, "print one JSON object at the end: text, tokens, finish, seed, timing");
  c->add_flag("-q,--quiet", a->quiet, "no timing on stderr");
  c->footer(
      "stdout carries the generated text and nothing else (a line end follows on a terminal). Ctrl-C ends with status "
      "130.");
}

void add_chat(CLI::App& app, Action& action) {
  std::shared_ptr<ChatArgs> a;
  CLI::App* c = add_command(app, action, "chat", "Talk with a model", a, run_chat);
  add_engine(c, a->engine);
  c->add_option("-s,--system", a->system, "system message (default: the template's)");
  add_sampling(c, a->sampling);
  c->add_flag("--timing", a->timing, "tokens and times on stderr after each reply");
  c->footer(
      "Each line of stdin is a message; /help lists the commands. The conversation is kept as the model's state: a "
      "turn reads "
      "only its own tokens.");
}

void add_serve(CLI::App& app, Action& action) {
  std::shared_ptr<ServeArgs> a;
  CLI::App* c =
      add_command(app, action, "serve", "Answer many clients over HTTP: a chat page and OpenAI's API", a, run_serve);
  add_engine(c, a->engine);
  c->add_option("--host", a->host, "address to listen on (default: 127.0.0.1, this machine alone)");
  c->add_option("--port", a->port, "0: one that is free (default: 8080)");
  c->add_option("--model-name", a->model_name, "name of the model in the API (default: its folder's)");
  c->add_option(
       "--api-key-file", a->api_key_file,
       "file with a key on each line; clients must name one (LINNET_API_KEY is one more; default: none needed)")
      ->type_name("FILE");
  c->add_flag("--no-api-key", a->no_api_key, "let other machines ask without a key");
  c->add_option("--cors", a->cors, "origin of web pages that may ask, as https://example.org, or *; may be repeated")
      ->take_all()
      ->expected(1)
      ->type_name("ORIGIN");
  c->add_option("--max-streams", a->max_streams, "sequences that are generated at once (default: 64)");
  c->add_option("--queue", a->max_queue, "requests that wait beyond them; the next is refused with 429 (default: 256)");
  c->add_option("--state-memory", a->state_memory_mib,
                "MiB for the states of sequences and the prefix cache (default: what is free)");
  c->add_flag("--no-prefix-cache", a->no_prefix_cache, "read every prompt from its beginning");
  c->add_flag("--no-batch-invariance", a->no_batch_invariance,
              "choose kernels by cost: short prompts go faster, but replies may depend on what else runs");
  c->add_option("--sessions", a->sessions,
                "folder where clients may save conversations with their state (default: none)")
      ->type_name("DIR");
  c->add_option("--reply-tokens", a->reply_tokens,
                "tokens of a chat reply whose request sets no limit, -1: the context (default: 2048)");
  c->add_option("--request-timeout", a->request_timeout, "seconds that a request may take, 0: any (default: 0)");
  c->add_option("--drain-timeout", a->drain_timeout,
                "seconds that running requests have to end after SIGINT or SIGTERM (default: 30)");
  c->add_option("--max-body", a->max_body_mib, "MiB of a request (default: 32)");
  c->add_option("--max-connections", a->max_connections, "open connections (default: 4096)");
  c->add_flag("-q,--quiet", a->quiet, "no line for each request on stderr");
  c->footer("docs/serving.md has the API. One line of JSON for each request on stderr.");
}

void add_tokenize(CLI::App& app, Action& action) {
  std::shared_ptr<TokenizeArgs> a;
  CLI::App* c = add_command(app, action, "tokenize", "Turn text into token ids, and back", a, run_tokenize);
  add_model(c, a->model, "folder with the tokenizer's files (tiktoken.model)");
  add_text(c, a->input, "prompt", "text to tokenize");
  CLI::Option* jsonl =
      c->add_flag("--jsonl", a->jsonl, "stdin: lines {\"text\": ...}; stdout: an array of ids for each");
  c->add_flag("--decode", a->decode, "the input is ids, the output their text")->excludes(jsonl);
  c->add_flag("--parse-specials", a->parse_specials, "names of control tokens are control tokens (default: text)");
  c->add_flag("--count", a->count, "print only how many tokens");
  c->add_flag("--show", a->show, "print a line for each token: its id and its bytes")->excludes(jsonl);
}

void add_data_inputs(CLI::App* c, DataInputs& a) {
  c->add_option("INPUTS", a.paths,
                "one .json: a configuration of sources (docs/training-data.md); else any of: text files, .jsonl files, "
                "folders of source code")
      ->required()
      ->take_all()
      ->type_name("");
  c->add_option("--template", a.document_template,
                "document of a line of .jsonl, as '{title}\\n{text}' with the names of its fields");
  c->add_option("--separator", a.separator, "line that ends a document of a text file (default: a file, a document)");
  c->add_option("--extensions", a.extensions, "of the files in folders, as .go,.rs (default: all files)")
      ->delimiter(',')
      ->take_all()
      ->type_name(".X,...");
}

void add_tokenizer(CLI::App& app, Action& action) {
  CLI::App* group = add_group(app, "tokenizer", "Make a tokenizer: tokenizer train");
  std::shared_ptr<TokenizerTrainArgs> a;
  CLI::App* c =
      add_command(*group, action, "train", "Learn a tokenizer from text: byte-pair encoding", a, run_tokenizer_train);
  add_data_inputs(c, a->inputs);
  c->add_option("-o,--out", a->out, "folder for tiktoken.model and tokenizer_config.json")
      ->required()
      ->type_name("DIR");
  c->add_option("--vocab-size", a->vocab_size, "embedding rows of the model: the tokens and 256 special tokens")
      ->required();
  c->add_option("--min-count", a->min_count, "a token occurs at least this often when it is made (default: 2)");
  c->add_option("--pattern", a->pattern, "how text is cut before; kimi is the only one (default: kimi)");
  c->add_option("--memory", a->memory_mib,
                "MiB for counts; beyond that the rarest pieces are forgotten, and the command says so (default: 4096)");
  c->footer("Same text and options, same tokens. Equal counts: the token that comes first in byte order.");
}

void add_data(CLI::App& app, Action& action) {
  CLI::App* group = add_group(app, "data", "Make data to train on: data build");
  std::shared_ptr<DataBuildArgs> a;
  CLI::App* c = add_command(*group, action, "build", "Turn text into token shards and a manifest", a, run_data_build);
  add_data_inputs(c, a->inputs);
  c->add_option("--licence", a->inputs.licence, "of the inputs, for the manifest");
  c->add_option("--tokenizer", a->tokenizer, "folder with tiktoken.model")->required()->type_name("DIR");
  c->add_option("-o,--out", a->out, "folder to write, new or empty")->required()->type_name("DIR");
  c->add_option("--held-out", a->held_out, "share of the documents that is kept from training (default: 0.01)");
  c->add_option("--begin-token", a->begin_token, "special token before each document (default: none)");
  c->add_option("--end-token", a->end_token, "special token after each document, or none (default: [EOS])");
  c->add_option("--max-shard-tokens", a->max_shard_tokens, "a file ends here (default: 268435456)");
  c->add_option("-t,--threads", a->threads, "threads (default: one per physical core)");
  c->footer("Which documents are held out follows from their bytes alone. stdout: a table of the sources.");
}

void add_inspect(CLI::App& app, Action& action) {
  std::shared_ptr<InspectArgs> a;
  CLI::App* c =
      add_command(app, action, "inspect", "Show architecture, parameters and memory of a model", a, run_inspect);
  add_model(c, a->model, "checkpoint folder, or a config.json without weights");
  c->add_option("-c,--context", a->context, "tokens of the memory table (default: the model's)");
  c->add_option("--tokens-per-pass", a->tokens_per_pass, "tokens a pass of the memory table (default: the engine's)");
  c->add_flag("--tensors", a->tensors, "list every tensor: name, shape, type, file");
  c->add_flag("--check", a->check, "read all weights and look for NaN and infinity");
  c->add_flag("--json", a->json, "print one JSON object");
}

void add_logits(CLI::App& app, Action& action) {
  std::shared_ptr<LogitsArgs> a;
  CLI::App* c =
      add_command(app, action, "logits", "Write the logits of given tokens, to compare engines", a, run_logits);
  add_engine(c, a->engine);
  c->add_option("--ids", a->ids, "safetensors file with input_ids [B, T], int32 or int64")
      ->required()
      ->type_name("FILE");
  c->add_option("--out", a->out, "safetensors file to write: logits [B, T, V] float32")->required()->type_name("FILE");
  c->add_flag("--hidden", a->hidden, "also write hidden.0 .. hidden.n [B, T, C]: embedding, then after each layer");
}

void add_perplexity(CLI::App& app, Action& action) {
  std::shared_ptr<PerplexityArgs> a;
  CLI::App* c = add_command(app, action, "perplexity", "Measure how well a model predicts text", a, run_perplexity);
  add_engine(c, a->engine);
  c->get_option("--context")
      ->description("tokens that are read from an empty state (default: 4096, or the model's if that is less)");
  ScoredSource& documents = a->documents;
  c->add_option("FILES", documents.files, "text files, each a document; - for stdin")->take_all()->type_name("");
  c->add_option("--ids", documents.ids, "instead: safetensors file with input_ids [B, T], each row a document")
      ->type_name("FILE");
  c->add_option("--data", documents.data, "instead: folder that linnet data build wrote; each source by itself, too")
      ->type_name("DIR");
  c->add_option("--split", documents.split, "of --data: held-out or train (default: held-out)");
  c->add_option("--documents", documents.n_documents, "of --data: only so many, evenly over the split (default: all)");
  c->add_option("--stride", a->stride, "tokens between the beginnings of windows (default: the context)");
  c->add_flag("--bos", documents.bos, "begin each text file with the BOS token");
  c->add_flag("--json", a->json, "print one JSON object");
}

void add_bench(CLI::App& app, Action& action) {
  std::shared_ptr<BenchArgs> a;
  CLI::App* c = add_command(app, action, "bench", "Measure speed against what the machine can do", a, run_bench);
  add_engine(c, a->engine);
  c->add_option("--depths", a->depths,
                "tokens in the state before a measurement, as 0,4096 (default: 0,4096,16384, as the context allows)")
      ->delimiter(',')
      ->take_all()
      ->type_name("N,...");
  c->add_option("--prompt", a->prompt, "tokens of a measured prompt (default: 2048)");
  c->add_option("--decode", a->decode, "tokens of a measured decode (default: 32)");
  c->add_option("--repetitions", a->repetitions, "of each measurement; the median counts (default: 3)");
  c->add_flag("--by-cost", a->by_cost, "choose kernels by cost, not those to which prompts and decoding are pinned");
  c->add_flag("--json", a->json, "print one JSON object");
  c->footer(
      "ratio: the time that the floor allows over the measured time. Floors are measured before each repetition, and "
      "the median "
      "counts: of a prompt its FLOPs at the rate of large products, of a decoded token the bytes of its weights and "
      "states at "
      "the read bandwidth.");
}

void add_bench_serve(CLI::App& app, Action& action) {
  std::shared_ptr<BenchServeArgs> a;
  CLI::App* c =
      add_command(app, action, "bench-serve", "Load a server and measure what its clients see", a, run_bench_serve);
  c->add_option("URL", a->url, "http://HOST:PORT of the server")->required()->type_name("");
  c->add_option("-n,--requests", a->requests, "conversations (default: 64)");
  c->add_option("-c,--concurrency", a->concurrency, "conversations at once, at most (default: 8; with --rate 1024)");
  c->add_option("--rate", a->rate,
                "conversations that begin in a second, at random as of independent users (default: when another ends)");
  c->add_option("--prompt-tokens", a->prompt_tokens, "length of prompts: N, or LOW:HIGH drawn evenly (default: 128)")
      ->type_name("N");
  c->add_option("--output-tokens", a->output_tokens, "length of replies: N, or LOW:HIGH (default: 64)")->type_name("N");
  c->add_option("--shared-tokens", a->shared_tokens,
                "the first so many tokens of all prompts are the same (default: 0)");
  c->add_option("--vocabulary", a->vocabulary, "random prompts draw token ids below this (default: 256)");
  c->add_option("--prompts", a->prompts, "lines {\"prompt\": TEXT} or {\"messages\": [...]} instead of random prompts")
      ->type_name("FILE");
  c->add_flag("--chat", a->chat,
              "ask /v1/chat/completions, with random words (default: /v1/completions with token ids)");
  c->add_option("--turns", a->turns, "of each conversation, by --chat (default: 1)");
  c->add_option("--pause", a->pause, "seconds between a reply and the next turn (default: 0)");
  c->add_flag("--stop-at-end", a->stop_at_end,
              "replies may end before their length (default: end tokens are passed over)");
  c->add_option("--temperature", a->temperature, "of the sampling (default: the server's)");
  c->add_option("--model", a->model, "name to ask for (default: the first that the server offers)");
  c->add_option("--api-key", a->api_key, "if the server wants one (default: the environment's LINNET_API_KEY)");
  c->add_option("--timeout", a->timeout, "seconds until a request counts as failed (default: 600)");
  c->add_option("--goodput", a->goodput,
                "limits in milliseconds that good requests keep: ttft=500,tpot=50,latency=5000")
      ->type_name("LIMITS");
  c->add_flag("--health", a->health, "measure GET /health instead, for --seconds");
  c->add_option("--seconds", a->seconds, "of --health (default: 5)");
  c->add_option("--seed", a->seed, "of prompts, lengths and arrivals (default: 0)");
  c->add_flag("--json", a->json, "print one JSON object");
  c->footer(
      "Times are those of a client: a request begins when it is sent, with --rate when it was due. TPOT is the time "
      "from the first text to the last over the tokens but one, ITL the time between two pieces of text.");
}

void add_synth(CLI::App& app, Action& action) {
  std::shared_ptr<SynthArgs> a;
  CLI::App* c =
      add_command(app, action, "synth", "Write a random checkpoint with published tensor names", a, run_synth);
  c->add_option("--config", a->config, "config.json to follow (examples/configs has some)")
      ->required()
      ->type_name("FILE");
  c->add_option("-o,--out", a->out, "folder to write, new or empty")->required()->type_name("DIR");
  c->add_option("--layers", a->layers, "only the first N layers (default: all)");
  c->add_option("--seed", a->seed, "same seed and config, same files (default: 0)");
  c->add_option("--dtype", a->dtype, "bf16, f16 or f32 (default: as the config says)");
  c->add_option("--max-shard-bytes", a->max_shard_bytes, "size of one safetensors file (default: 5000000000)");
  c->add_option("-t,--threads", a->threads, "threads (default: one per physical core)");
}

void add_train(CLI::App& app, Action& action) {
  std::shared_ptr<TrainArgs> a;
  CLI::App* c = add_command(app, action, "train", "Train models from token shards", a, run_train);
  c->add_option("CONFIG", a->config, "JSON file that says what to train; examples/train has some")->type_name("FILE");
  c->add_option("--set", a->set, "KEY=VALUE in place of what CONFIG says, as optimizer.muon.lr=0.001; may be repeated")
      ->take_all()
      ->expected(1)
      ->type_name("KEY=VALUE");
  c->add_flag("--resume", a->resume, "go on from the last checkpoint, bit for bit");
  c->add_flag("--trace", a->trace, "print at the end where the time of the steps went");
  c->add_flag("--describe", a->describe, "list the fields of CONFIG: default and meaning");
  c->add_option("-t,--threads", a->threads, "threads (default: as CONFIG says, else one per physical core)");
  c->footer(
      "Checkpoints, log.jsonl and report.html go to the folder checkpoint.folder. Ctrl-C saves and ends with status "
      "130; a run that was killed loses what it did since its last checkpoint.");
}

void add_doctor(CLI::App& app, Action& action) {
  std::shared_ptr<DoctorArgs> a;
  CLI::App* c =
      add_command(app, action, "doctor", "Say what this machine offers, and what of it is used", a, run_doctor);
  c->add_flag("--json", a->json, "print one JSON object");
  c->footer("Status 0 when the CPU computes what the definition says, whatever is said of GPUs.");
}

}  // namespace

void declare_commands(CLI::App& app, Action& action) {
  add_generate(app, action);
  add_chat(app, action);
  add_serve(app, action);
  add_inspect(app, action);
  add_tokenize(app, action);
  add_tokenizer(app, action);
  add_data(app, action);
  add_train(app, action);
  add_perplexity(app, action);
  add_bench(app, action);
  add_bench_serve(app, action);
  add_synth(app, action);
  add_logits(app, action);
  add_doctor(app, action);
}

}  // namespace linnet::cli
