// SPDX-License-Identifier: Apache-2.0
// The fake fill honors the contract of a partially present layer
// (tests/unit/cache/fill_contract_test.cc).
#include "tests/fakes/fs/fake_fill.h"

#include "base/text.h"
#include "tests/fakes/cache/layer_fill_contract.h"
#include "tests/fakes/fs/test_chain.h"

namespace imagefs {
namespace {

class FakeHarness {
 public:
  FakeHarness() : directory_(StrCat(::testing::TempDir(), "/fake-fill-", RandomHex(8))) {
    TestChain tree;
    tree.File("file", PatternBytes(300'000, 1));
    chain_ = tree.Build(directory_);
    truth_ = *ReadFile(data(), 1 << 20);
    fill_ = FakeFill::Empty(chain_->layers[0]);
  }
  ~FakeHarness() { EXPECT_TRUE(RemoveTree(directory_).ok()); }
  LayerFill& fill() { return *fill_; }
  const std::string& truth() const { return truth_; }
  std::string data() const { return chain_->layers[0]->directory + "/data"; }
  void Hold() { fill_->Hold(); }
  void AwaitHeld() { fill_->AwaitHeld(1); }
  void Release() { fill_->Release(); }
  void BringAll() { fill_->Complete(); }

 private:
  const std::string directory_;
  ChainRef chain_;
  std::string truth_;
  std::shared_ptr<FakeFill> fill_;
};

INSTANTIATE_TYPED_TEST_SUITE_P(Fake, LayerFillContractTest, FakeHarness);

}  // namespace
}  // namespace imagefs
