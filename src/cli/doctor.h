// linnet doctor: what this machine offers, what of it Linnet uses, and why not the rest.
#pragma once

namespace linnet::cli {

struct DoctorArgs {
  bool json = false;
};

// Status 0 when the CPU computes right, whatever is said of devices.
int run_doctor(const DoctorArgs& args);

}  // namespace linnet::cli
