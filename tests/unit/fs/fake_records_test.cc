// SPDX-License-Identifier: Apache-2.0
// The fake records honor the contract of the stored ones (tests/unit/cmd/records_test.cc).
#include "tests/fakes/fs/mount_fixture.h"
#include "tests/fakes/fs/mount_records_contract.h"

namespace imagefs {
namespace {

class FakeHarness {
 public:
  MountRecords& records() { return records_; }
  void Damage(const std::string& directory) { records_.Damage(directory); }
  bool FillDisk() {
    records_.FailPuts(true);
    return true;
  }

 private:
  FakeRecords records_;
};

INSTANTIATE_TYPED_TEST_SUITE_P(Fake, MountRecordsContractTest, FakeHarness);

}  // namespace
}  // namespace imagefs
