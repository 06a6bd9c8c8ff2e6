// The fake source keeps the promises of the real ones (tests/unit/fetch/source_contract_test.cc),
// so that what is tested with it holds for them.
#include "tests/fakes/cache/fake_source.h"

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

INSTANTIATE_TYPED_TEST_SUITE_P(Fake, SourceContractTest, FakeHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(FakeInterleaving, SourceContractTest, InterleavingHarness);

}  // namespace
}  // namespace imagefs
