// SPDX-License-Identifier: Apache-2.0
#include "fetch/node_credentials.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kMost = 4096;

Reference Image(const std::string& text) { return *Reference::Parse(text); }

Credential User(const std::string& name) {
  Credential credential;
  credential.username = name;
  credential.password = StrCat("password of ", name);
  return credential;
}

class NodeCredentialsTest : public testing::Test {
 protected:
  void SetUp() override {
    auto memory = KeptMemory::Create("test", kMost);
    ASSERT_TRUE(memory.ok()) << memory.status();
    fd_ = Fd(dup((*memory)->fd().get()));
    credentials_->KeepIn(*std::move(memory));
  }
  // Those of the next process.
  std::shared_ptr<NodeCredentials> Next() const {
    auto memory = KeptMemory::Adopt(Fd(dup(fd_.get())), kMost);
    EXPECT_TRUE(memory.ok()) << memory.status();
    auto next = NodeCredentials::Create({});
    next->KeepIn(*std::move(memory));
    return next;
  }

  Fd fd_;
  std::shared_ptr<NodeCredentials> credentials_ = NodeCredentials::Create({});
};

TEST_F(NodeCredentialsTest, TheNextProcessHasWhatTheKubeletPassed) {
  credentials_->Remember(Image("a.io/x:1"), User("one"));
  Credential token;
  token.registry_token = "token";
  credentials_->Remember(Image("b.io/y:1"), token);
  const auto next = Next();
  EXPECT_EQ(next->Find(Image("a.io/x:1"), nullptr).username, "one");
  EXPECT_EQ(next->Find(Image("a.io/x:1"), nullptr).password, User("one").password);
  EXPECT_EQ(next->Find(Image("a.io/x:2"), nullptr).username, "one");
  EXPECT_EQ(next->Find(Image("b.io/y:1"), nullptr).registry_token, "token");
  EXPECT_TRUE(next->Find(Image("c.io/x:1"), nullptr).empty());
}

TEST_F(NodeCredentialsTest, WhatIsForgottenIsForgottenThereAsWell) {
  credentials_->Remember(Image("a.io/x:1"), User("one"));
  credentials_->Remember(Image("b.io/x:1"), User("two"));
  credentials_->Remember(Image("c.io/x:1"), User("three"));
  credentials_->TakeBack(Image("a.io/x:1"), User("one"));
  credentials_->RememberId(Image("b.io/x:1"), "sha256:abc");
  EXPECT_EQ(Next()->counters().remembered, 2U);
  Next()->Forget("sha256:abc");
  EXPECT_EQ(Next()->counters().remembered, 1U);
  const Credential refused = User("three");
  (void)Next()->Find(Image("c.io/x:1"), &refused);
  EXPECT_EQ(Next()->counters().remembered, 0U);
}

TEST_F(NodeCredentialsTest, WhatTheKubeletPassedIsForPullsOnly) {
  const Reference image = Image("a.io/x:1");
  credentials_->Remember(image, User("pod"));
  EXPECT_EQ(credentials_->AccessFor(image).credential.username, "pod");
  const SourceFactory::Access own = credentials_->OwnAccessFor(image);
  EXPECT_TRUE(own.credential.empty());
  EXPECT_TRUE(own.refresh(Credential())->empty());
  EXPECT_TRUE(own.refresh(User("another"))->empty());
}

TEST_F(NodeCredentialsTest, TheOldestDoNotFit) {
  for (int i = 0; i < 200; ++i) {
    credentials_->Remember(Image(StrCat("a.io/x", i, ":1")), User(StrCat("user", i)));
  }
  EXPECT_EQ(credentials_->counters().remembered, 200U);
  const auto next = Next();
  EXPECT_LT(next->counters().remembered, 200U);
  EXPECT_EQ(next->Find(Image("a.io/x199:1"), nullptr).username, "user199");
  EXPECT_TRUE(next->Find(Image("a.io/x0:1"), nullptr).empty());
}

TEST_F(NodeCredentialsTest, AnotherFormatIsIgnored) {
  auto memory = KeptMemory::Adopt(Fd(dup(fd_.get())), kMost);
  ASSERT_TRUE(memory.ok());
  for (const std::string& text :
       {std::string("x"), std::string("\xff\xff\xff\xff", 4), std::string("\4\0\0\0a.i", 7)}) {
    (*memory)->Write(text);
    EXPECT_EQ(Next()->counters().remembered, 0U);
  }
}

}  // namespace
}  // namespace imagefs
