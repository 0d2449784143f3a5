// The CUDA module of this build, where there is one: its operators take the structs that this program was compiled with. No GPU needed.
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "core/device.h"
#include "ops/linear_attn/linear_attn_sm90.h"

namespace linnet::ops {
namespace {

const LinnetDeviceOperator* find(const LinnetDeviceModule& table, const std::string& name) {
  for (int i = 0; i < table.n_operators; ++i)
    if (table.operators[i].name == name) return &table.operators[i];
  return nullptr;
}

TEST(module_cuda, operators_take_the_structs_of_their_headers) {
  const DeviceModule module = find_device_module(std::filesystem::read_symlink("/proc/self/exe").parent_path());
  if (module.path.empty()) GTEST_SKIP() << module.refusal;
  ASSERT_NE(module.table, nullptr) << module.refusal;
  EXPECT_STREQ(module.table->kind, "cuda");
  std::set<std::string> names;
  for (int i = 0; i < module.table->n_operators; ++i) {
    const LinnetDeviceOperator& op = module.table->operators[i];
    EXPECT_TRUE(names.insert(op.name).second) << op.name << " is listed twice";
    EXPECT_NE(op.workspace_bytes, nullptr) << op.name;
    EXPECT_NE(op.enqueue, nullptr) << op.name;
  }
  const LinnetDeviceOperator* prefill = find(*module.table, "kda_prefill_sm90");
  const LinnetDeviceOperator* decode = find(*module.table, "kda_decode_sm90");
  ASSERT_TRUE(prefill && decode);
  EXPECT_EQ(prefill->args_bytes, sizeof(KdaPrefillSm90));
  EXPECT_EQ(decode->args_bytes, sizeof(KdaDecodeSm90));

  KdaPrefillSm90 args = {};
  args.n_tokens = 1000, args.n_sequences = 3, args.n_heads = 2;
  const uint64_t bytes = prefill->workspace_bytes(&args);
  EXPECT_GT(bytes, 0u);
  args.n_tokens = 2000;
  EXPECT_GE(prefill->workspace_bytes(&args), bytes);
}

}  // namespace
}  // namespace linnet::ops
