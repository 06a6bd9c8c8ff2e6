// SPDX-License-Identifier: Apache-2.0
// The list of referrers under a tag, which others write at the same time.
#include "fetch/referrers_tag.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/text.h"
#include "fetch/registry_writer.h"
#include "fetch/source.h"
#include "tests/fakes/fetch/fake_registry.h"
#include "tests/fakes/fetch/pending.h"

namespace imagefs {
namespace {

constexpr char kIndexType[] = "application/vnd.oci.image.index.v1+json";
constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";
using PushedArtifact = absl::StatusOr<RegistryWriter::PushedArtifact>;

class ReferrersTagTest : public testing::Test {
 protected:
  void SetUp() override {
    SourceFactory::Options options;
    options.first_backoff = std::chrono::milliseconds(1);
    options.max_attempts = 2;
    factory_ = *SourceFactory::Create(options);
  }
  static RegistryWriter::Artifact MakeArtifact(const std::string& name) {
    RegistryWriter::Artifact artifact;
    artifact.artifact_type = "application/x.test";
    artifact.subject.media_type = kManifestType;
    artifact.subject.digest = Sha256Of("subject");
    artifact.subject.size = 7;
    artifact.annotations = {{"name", name}};
    return artifact;
  }
  static std::string Ours(const std::string& name) {
    return Sha256Of(ArtifactManifest(MakeArtifact(name))).ToString();
  }
  static Descriptor Entry() {
    Descriptor entry;
    entry.media_type = kManifestType;
    entry.digest = *Digest::Parse(Ours("ours"));
    entry.size = ArtifactManifest(MakeArtifact("ours")).size();
    entry.artifact_type = "application/x.test";
    entry.annotations = {{"name", "ours"}};
    return entry;
  }
  void Begin(const std::string& name, Pending<PushedArtifact>& pending) {
    auto writer = factory_->OpenWriter(*Reference::Parse(server_.host() + "/img:1"), {});
    ASSERT_TRUE(writer.ok());
    (*writer)->PushArtifact(MakeArtifact(name), CancelToken(), pending.Done());
  }
  absl::Status Push(const std::string& name = "ours") {
    Pending<PushedArtifact> pending;
    Begin(name, pending);
    return pending.Wait().status();
  }
  // What the list holds, as text or by digest.
  std::string List() { return server_.Stored(kPath).value_or(""); }
  std::set<std::string> Listed() {
    std::set<std::string> digests;
    const absl::StatusOr<Json> json = Json::Parse(List());
    if (!json.ok()) return digests;
    for (const Json& entry : (*json)["manifests"].elements()) {
      EXPECT_TRUE(digests.insert(entry.StringOr("digest")).second) << "listed twice";
    }
    return digests;
  }
  // What cosign does: a manifest, and the list with an entry more.
  std::string Foreign(const std::string& name) {
    return server_.AddManifest("img", "", ForeignBytes(name), kManifestType).ToString();
  }
  static std::string ForeignBytes(const std::string& name) {
    return StrCat(R"({"layers":[],"annotations":{"name":")", name, "\"}}");
  }
  static std::string With(const std::string& list, const std::string& name) {
    Descriptor entry;
    entry.media_type = kManifestType;
    entry.digest = Sha256Of(ForeignBytes(name));
    entry.size = ForeignBytes(name).size();
    entry.artifact_type = "application/vnd.dev.cosign.artifact.sig.v1+json";
    return *UpdateReferrersIndex(list, entry);
  }
  void WriteList(const std::string& list) { server_.AddManifest("img", kTag, list, kIndexType); }
  std::string AddForeign(const std::string& name) {
    WriteList(With(List(), name));
    return Foreign(name);
  }
  void DeleteManifest(const std::string& digest) { server_.Remove("/v2/img/manifests/" + digest); }
  // `act` runs before the n-th request for the list takes effect, from 0.
  void Before(int n, std::function<void()> act) {
    for (int i = 0; i < n; ++i) server_.On(kPath, {});
    server_.On(kPath, {.before = std::move(act)});
  }
  std::string Methods() {
    std::string methods;
    for (const auto& request : server_.RequestsFor(kPath)) StrAppend(&methods, request.method, " ");
    return methods;
  }

  const std::string kTag = StrCat("sha256-", Sha256Of("subject").hex());
  const std::string kPath = StrCat("/v2/img/manifests/", kTag);
  FakeRegistry server_;
  std::unique_ptr<SourceFactory> factory_;
};

TEST_F(ReferrersTagTest, IsReadBeforeItIsWrittenAndTwiceAfterwards) {
  const std::string foreign = AddForeign("signature");
  ASSERT_TRUE(Push().ok());
  EXPECT_EQ(Methods(), "GET PUT GET GET ");
  EXPECT_EQ(Listed(), (std::set<std::string>{foreign, Ours("ours")}));
  // What is there is not written again.
  ASSERT_TRUE(Push().ok());
  EXPECT_EQ(Methods(), "GET PUT GET GET GET ");
}

// A request of ours is 0: GET, 1: PUT, 2: GET, 3: GET, and 4 is the time after that. Somebody reads
// the list before one of them takes effect and writes it before the same or a later one.
TEST_F(ReferrersTagTest, AWriterThatDoesNotLookAgainInterleavedAtEachPoint) {
  for (const bool conditions : {false, true}) {
    for (int reads = 0; reads <= 4; ++reads) {
      for (int writes = reads; writes <= 4; ++writes) {
        const std::string what = StrCat("conditions ", conditions, " ", reads, "-", writes);
        FakeRegistry::Features features;
        features.etags = features.conditions = conditions;
        server_.SetFeatures(features);
        server_.Remove(kPath);
        const std::string before = AddForeign("before"), foreign = Foreign("signature");
        std::string read;
        const auto at = [&](int n) {
          if (n == reads) read = List();
          if (n == writes) WriteList(With(read, "signature"));
        };
        for (int n = 0; n < 4; ++n) server_.On(kPath, {.before = [at, n] { at(n); }});
        const absl::Status pushed = Push();
        EXPECT_TRUE(pushed.ok()) << what << ": " << pushed;
        at(4);
        std::set<std::string> expected = {before, foreign, Ours("ours")};
        // Written between our reading and our writing: only the registry can know.
        if (writes == 1 && !conditions) expected.erase(foreign);
        // Read before we wrote and written when we had ended: only its writer can know.
        if (reads <= 1 && writes == 4) expected.erase(Ours("ours"));
        EXPECT_EQ(Listed(), expected) << what;
      }
    }
  }
}

TEST_F(ReferrersTagTest, WhatAnotherWriterDroppedIsWrittenAgain) {
  const std::string dropped = AddForeign("dropped");
  const std::string foreign = Foreign("other");
  // That one had read the list when it was empty.
  Before(2, [&] { WriteList(With("", "other")); });
  ASSERT_TRUE(Push().ok());
  EXPECT_EQ(Listed(), (std::set<std::string>{dropped, foreign, Ours("ours")}));
  EXPECT_EQ(Methods(), "GET PUT GET GET PUT GET GET ");
  // Also when it is late, and when ours is there: it may have been written by another node.
  for (const int late : {2, 3}) {
    server_.Remove(kPath);
    AddForeign("dropped");
    Before(late, [&] { WriteList(*UpdateReferrersIndex("", Entry())); });
    ASSERT_TRUE(Push().ok());
    EXPECT_EQ(Listed(), (std::set<std::string>{dropped, Ours("ours")})) << late;
  }
}

TEST_F(ReferrersTagTest, WhatWasDeletedStaysDeleted) {
  const std::string kept = AddForeign("kept"), deleted = AddForeign("deleted");
  // By whoever had read the list before we wrote it, and by one who read it afterwards.
  for (const bool with_ours : {false, true}) {
    Before(2, [&] {
      WriteList(with_ours ? *UpdateReferrersIndex(With("", "kept"), Entry()) : With("", "kept"));
      DeleteManifest(deleted);
    });
    ASSERT_TRUE(Push().ok());
    EXPECT_EQ(Listed(), (std::set<std::string>{kept, Ours("ours")}));
    server_.Remove(kPath);
    AddForeign("kept");
    AddForeign("deleted");
  }
}

TEST_F(ReferrersTagTest, ARegistryThatCannotSayWhatItHasLosesNothing) {
  const std::string dropped = AddForeign("dropped");
  server_.On("/v2/img/manifests/" + dropped, {.times = -1, .status = 405});
  Before(2, [&] { WriteList(With("", "other")); });
  ASSERT_TRUE(Push().ok());
  EXPECT_EQ(Listed().count(dropped), 1U);
}

TEST_F(ReferrersTagTest, ConditionsAreSentAndDoNoHarm) {
  const auto condition = [this](size_t n) {
    const auto request = server_.RequestsFor(kPath)[n];
    return StrCat(request.Header("if-match"), "|", request.Header("if-none-match"));
  };
  ASSERT_TRUE(Push("one").ok());
  EXPECT_EQ(condition(1), "|*");
  // Without an ETag there is no condition.
  ASSERT_TRUE(Push("two").ok());
  EXPECT_EQ(condition(5), "|");
  server_.SetFeatures({.etags = true});
  const std::string tag = StrCat("\"", Sha256Of(List()).ToString(), "\"");
  ASSERT_TRUE(Push("three").ok());
  EXPECT_EQ(condition(9), tag + "|");
  // A weak one is none.
  server_.On(kPath, {.headers = {{"ETag", "W/" + tag}}});
  ASSERT_TRUE(Push("four").ok());
  EXPECT_EQ(condition(13), "|");
  // A registry that refuses them, and one whose ETags a proxy has changed.
  for (const int status : {400, 501, 412}) {
    server_.SetFeatures({.etags = true, .no_conditions = status});
    const absl::Status pushed = Push(StrCat("at ", status));
    EXPECT_TRUE(pushed.ok()) << status << " " << pushed;
    server_.Remove(kPath);
    const absl::Status fresh = Push(StrCat("fresh at ", status));
    EXPECT_TRUE(fresh.ok()) << status << " " << fresh;
  }
  // What it has against the list itself is the error.
  server_.On(kPath, {.status = 404});
  server_.On(kPath, {.status = 400});
  server_.On(kPath, {.status = 404});
  server_.On(kPath, {.status = 400});
  EXPECT_FALSE(Push("five").ok());
}

TEST_F(ReferrersTagTest, ManyWritersAtOnceLoseNothingWhereConditionsAreHonoured) {
  server_.SetFeatures({.etags = true, .conditions = true});
  constexpr int kWriters = 4;
  std::set<std::string> expected = {AddForeign("signature")};
  std::vector<std::unique_ptr<Pending<PushedArtifact>>> pendings;
  for (int i = 0; i < kWriters; ++i) {
    pendings.push_back(std::make_unique<Pending<PushedArtifact>>());
    Begin(StrCat(i), *pendings.back());
    expected.insert(Ours(StrCat(i)));
  }
  for (auto& pending : pendings) EXPECT_TRUE(pending->Wait().ok()) << pending->result.status();
  EXPECT_EQ(Listed(), expected);
}

TEST_F(ReferrersTagTest, ARegistryThatListsReferrersHasNoTag) {
  server_.SetFeatures({.referrers = true, .lists_itself = true});
  ASSERT_TRUE(Push().ok());
  EXPECT_EQ(Methods(), "");
}

TEST_F(ReferrersTagTest, APauseIsCancelled) {
  CancelSource cancel;
  Pending<PushedArtifact> pending;
  Before(2, [&] {
    WriteList(With("", "other"));
    cancel.Cancel();
  });
  auto writer = *factory_->OpenWriter(*Reference::Parse(server_.host() + "/img:1"), {});
  writer->PushArtifact(MakeArtifact("ours"), cancel.token(), pending.Done());
  EXPECT_TRUE(absl::IsCancelled(pending.Wait().status()));
}

}  // namespace
}  // namespace imagefs
