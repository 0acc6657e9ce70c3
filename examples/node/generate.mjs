// Streams one generation from a scheduler: node generate.mjs 127.0.0.1:50051 "What is 3 + 9 - 4?"
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const definition = loader.loadSync("predictive_scheduling/scheduler/v1/scheduler.proto", {
  includeDirs: [join(root, "protos"), join(root, "third_party", "protos")],
  defaults: true,
  keepCase: true,
  enums: String,
  longs: Number,
  oneofs: true,
});
const { SchedulerService } = grpc.loadPackageDefinition(definition).predictive_scheduling.scheduler.v1;

const [address = "127.0.0.1:50051", prompt = "What is 3 + 9 - 4?"] = process.argv.slice(2);
const client = new SchedulerService(address, grpc.credentials.createInsecure());
const deadline = new Date(Date.now() + 60_000);
const call = client.Generate({ job: { prompt } }, { deadline });

call.on("data", (event) => {
  if (event.event === "allocation") {
    console.log("budget", event.allocation.reasoning_budget_tokens);
  } else if (event.event === "text") {
    process.stdout.write(event.text.text);
  } else {
    console.log("\nused", event.usage.reasoning_tokens, event.usage.finish_reason);
  }
});
call.on("error", (error) => {
  console.error(grpc.status[error.code], error.details);
  process.exitCode = 1;
});
call.on("end", () => client.close());
