// SPDX-License-Identifier: Apache-2.0
// The fake source fulfills the contract of the real ones
// (tests/unit/fetch/source_contract_test.cc), so that tests that use it apply to them.
#include "tests/fakes/cache/fake_source.h"

#include "tests/fakes/fetch/held_source_contract.h"
#include "tests/fakes/fetch/source_answers_contract.h"
#include "tests/fakes/fetch/source_contract.h"

namespace imagefs {
namespace {

class FakeHarness {
 public:
  std::shared_ptr<ImageSource> Open(std::string bytes, Descriptor& blob) {
    blob = repository_.AddBlob(std::move(bytes));
    return repository_.Open("alice");
  }

 protected:
  FakeRepository repository_;
};

class InterleavingHarness : public FakeHarness {
 public:
  std::shared_ptr<ImageSource> Open(std::string bytes, Descriptor& blob) {
    auto source = FakeHarness::Open(std::move(bytes), blob);
    repository_.Interleave(blob.digest, 50'000, 3);
    return source;
  }
};

class HoldingHarness : public FakeHarness {
 public:
  std::shared_ptr<ImageSource> Open(std::string bytes, Descriptor& blob) {
    auto source = FakeHarness::Open(std::move(bytes), blob);
    digest_ = blob.digest;
    return source;
  }
  void Hold(uint64_t offset) { repository_.HoldAt(digest_, offset); }
  void AwaitHeld() { repository_.AwaitHeld(digest_); }
  void Release() { repository_.Release(digest_); }

 private:
  Digest digest_;
};

class AnswersHarness {
 public:
  std::shared_ptr<ImageSource> Open(const std::vector<std::string>& blobs,
                                    const std::string& manifest) {
    for (const std::string& blob : blobs) repository_.AddBlob(blob);
    repository_.AddManifest("1", manifest);
    return repository_.Open("alice");
  }
  void Damage(const Digest& blob) { repository_.CorruptAt(blob, 0, 100); }

 private:
  FakeRepository repository_;
};

INSTANTIATE_TYPED_TEST_SUITE_P(Fake, SourceContractTest, FakeHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(FakeInterleaving, SourceContractTest, InterleavingHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(Fake, HeldSourceContractTest, HoldingHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(Fake, SourceAnswersContractTest, AnswersHarness);

}  // namespace
}  // namespace imagefs
