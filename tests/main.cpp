// Entry of every test program: GoogleTest, plus --isa=LEVEL, which runs the tests at that instruction-set level and exits
// with 77 (skipped, says CTest) where the machine does not offer it.
#include <gtest/gtest.h>

#include <cstdio>
#include <string_view>

#include "core/cpu_features.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (!arg.starts_with("--isa=")) continue;
    using linnet::Isa;
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx}) {
      if (arg.substr(6) != name_of(isa)) continue;
      if (isa > linnet::detected_isa()) {
        std::printf("this machine offers %s, not %s\n", name_of(linnet::detected_isa()), name_of(isa));
        return 77;
      }
      linnet::override_isa(isa);
    }
  }
  std::printf("instruction set: %s\n", name_of(linnet::active_isa()));
  return RUN_ALL_TESTS();
}
