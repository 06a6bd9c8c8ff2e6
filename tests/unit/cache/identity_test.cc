// SPDX-License-Identifier: Apache-2.0
// Which caller is given which layer: images with false claims, false descriptions, and blobs that a
// caller may not access. Everything that ImageStore shares has been proven.
#include "cache/identity.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "base/fd.h"
#include "base/text.h"
#include "cache/image_store.h"
#include "fetch/registry_writer.h"
#include "image/erofs_writer.h"
#include "image/index_bundle.h"
#include "image/span_table.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

// Layers whose files identify them: "mark" has the number, "data" is larger.
std::string TarOfLayer(uint32_t number) {
  return TarOf({{"data", MixedBytes(40'000, number)}, {"mark", StrCat("genuine ", number)}});
}

class IdentityTest : public ::testing::Test {
 protected:
  struct Given {
    absl::Status status;
    ChainRef chain;
    ImageRef image;
    std::shared_ptr<ImageSource> source;
  };

  IdentityTest() : sources_(repository_) {
    options_.root = StrCat(::testing::TempDir(), "/identity-", RandomHex(8));
    options_.index.min_bytes = 0;
    options_.fill.background = false;
    options_.fill.deadline = absl::Seconds(1);  // rejected requests are retried until then
    options_.profiles = false;
    for (uint32_t i = 0; i < 4; ++i) tars_.push_back(TarOfLayer(i));
    Reopen();
  }
  ~IdentityTest() override {
    store_.reset();
    std::filesystem::remove_all(options_.root);
  }

  void Reopen() {
    store_.reset();
    auto store = ImageStore::Open(options_, sources_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  Given Show(const std::string& tag, IndexTrust trust, const std::string& user = "alice",
             const std::string& registry = "registry.test",
             PullPolicy policy = PullPolicy::kAlways) {
    Given given;
    absl::Notification ended;
    ResolveRequest request;
    request.reference = *Reference::Parse(StrCat(registry, "/img:", tag));
    request.platform = Platform::Host();
    request.access.credential.username = user;
    request.policy = policy;
    request.trust = trust;
    store_->Resolve(request, [&](absl::StatusOr<ImageStore::Resolved> resolved) {
      if (!resolved.ok()) {
        given.status = resolved.status();
        return ended.Notify();
      }
      given.image = resolved->image;
      given.source = resolved->source;
      store_->EnsureChain(given.image, given.source, trust, Priority::kForeground,
                          [&](absl::StatusOr<ChainRef> chain) {
                            given.status = chain.status();
                            if (chain.ok()) given.chain = *std::move(chain);
                            ended.Notify();
                          });
    });
    ended.WaitForNotification();
    return given;
  }

  absl::Status Durable(const ChainRef& chain) {
    absl::Notification ended;
    absl::Status status;
    store_->WaitDurable(chain, [&](absl::Status s) {
      status = std::move(s);
      ended.Notify();
    });
    ended.WaitForNotification();
    return status;
  }

  // Reads the file from that layer alone, as a reader would.
  static absl::StatusOr<std::string> Content(const Layer& layer, const std::string& name) {
    absl::StatusOr<std::optional<Nid>> nid = layer.index->Lookup(layer.index->root(), name);
    if (!nid.ok()) return nid.status();
    if (!nid->has_value()) return absl::NotFoundError(StrCat("no file ", name));
    const ErofsImage::Stat stat = *layer.index->GetStat(**nid);
    std::string content(stat.size, '?');
    for (uint64_t at = 0; at < stat.size;) {
      const Extent extent = *layer.index->Map(**nid, at);
      if (layer.fill != nullptr) {
        absl::Notification ended;
        absl::Status status;
        layer.fill->Ensure({extent.data_offset, extent.data_offset + extent.length}, 0,
                           CancelToken(), [&](const absl::StatusOr<ReadPin>& pin) {
                             status = pin.status();
                             ended.Notify();
                           });
        ended.WaitForNotification();
        if (!status.ok()) return status;
      }
      EXPECT_TRUE(PreadFull(layer.data.get(), absl::MakeSpan(content).subspan(at, extent.length),
                            extent.data_offset)
                      .ok());
      at += extent.length;
    }
    return content;
  }

  struct Spec {
    uint32_t claims = 0;  // number of the layer whose DiffID it claims
    std::string blob;
    bool gzip = false;
  };
  Spec Honest(uint32_t number, int level = 6) {
    return {number, GzipBytes(tars_[number], level), true};
  }
  Digest DiffIdOf(uint32_t number) const { return Sha256Of(tars_[number]); }

  // Adds an image. Returns the blobs of its layers in order.
  std::vector<Descriptor> AddImage(const std::string& tag, const std::vector<Spec>& specs) {
    std::vector<FakeRepository::LayerSpec> layers;
    for (const Spec& spec : specs) layers.push_back({spec.blob, DiffIdOf(spec.claims), spec.gzip});
    manifests_[tag] = repository_.AddImage(tag, layers);
    std::vector<Descriptor> blobs;
    for (size_t i = 0; i < specs.size(); ++i) blobs.push_back(repository_.LayerBlob(i));
    return blobs;
  }

  // Publishes an index of the image that describes the real content of each layer's blob (`real`,
  // by number), with the claims of the image, falsified where `lie` is set for the layer.
  void Publish(const std::string& tag, const std::vector<Spec>& specs,
               const std::vector<uint32_t>& real, const std::vector<bool>& lie) {
    RegistryWriter::Artifact artifact;
    artifact.artifact_type = std::string(kIndexArtifactType);
    artifact.subject.media_type = "application/vnd.oci.image.manifest.v1+json";
    artifact.subject.digest = manifests_[tag];
    artifact.subject.size = 1;
    for (size_t i = 0; i < specs.size(); ++i) {
      IndexBundle bundle = BundleOf(specs[i], real[i], lie[i]);
      PackedBundle packed = *PackBundle(bundle);
      repository_.AddBlob(std::move(packed.windows));
      RegistryWriter::Layer layer;
      layer.media_type = std::string(kLayerIndexMediaType);
      layer.annotations = {{std::string(kLayerAnnotation), Sha256Of(specs[i].blob).ToString()}};
      const Descriptor blob = repository_.AddBlob(std::move(packed.index));
      layer.blob.digest = blob.digest;
      layer.blob.size = blob.size;
      artifact.layers.push_back(std::move(layer));
    }
    repository_.AddManifest(StrCat("sha256-", manifests_[tag].hex(), ".imagefs"),
                            ArtifactManifest(artifact));
  }

  // Returns what a publisher's machine makes from that blob.
  IndexBundle BundleOf(const Spec& spec, uint32_t real, bool lie) {
    FakeRepository repository;
    FakeSourceFactory sources(repository);
    FakeRepository::LayerSpec layer = {spec.blob, DiffIdOf(real), spec.gzip};
    repository.AddImage("x", {layer});
    ImageStore::Options options;
    options.root = StrCat(::testing::TempDir(), "/publisher-", RandomHex(8));
    IndexBundle bundle;
    {
      auto store = *ImageStore::Open(options, sources);
      absl::Notification ended;
      ResolveRequest request;
      request.reference = *Reference::Parse("publisher.test/img:x");
      request.platform = Platform::Host();
      store->Resolve(request, [&](absl::StatusOr<ImageStore::Resolved> resolved) {
        store->MakeIndexes(resolved->image, resolved->source, [&](absl::StatusOr<ChainRef> chain) {
          EXPECT_TRUE(chain.ok()) << chain.status();
          const std::string directory = (*chain)->layers[0]->directory;
          bundle = {*ReadFile(directory + "/index", 1 << 30),
                    *ReadFile(directory + "/access", 1 << 30)};
          ended.Notify();
        });
      });
      ended.WaitForNotification();
    }
    std::filesystem::remove_all(options.root);
    Claim(bundle, DiffIdOf(real), DiffIdOf(spec.claims));
    if (!lie) return bundle;
    for (size_t at = 0; (at = bundle.index.find("mark", at)) != std::string::npos; ++at) {
      bundle.index.replace(at, 4, "evil");
    }
    return bundle;
  }

  // Writes another DiffID into a bundle, with matching checksums.
  static void Claim(IndexBundle& bundle, const Digest& real, const Digest& claim) {
    if (real == claim) return;
    Tree tree = *(*ErofsImage::FromMemory(bundle.index))->ToTree();
    SpanTable table = CopyOf(**SpanTableReader::FromBytes(bundle.span_table));
    table.diff_id = claim;
    bundle.span_table = *WriteSpanTable(table);
    const std::string path = StrCat(::testing::TempDir(), "/claim-", RandomHex(8));
    {
      const Fd fd = *OpenFile(path, O_RDWR | O_CREAT, 0600);
      ASSERT_TRUE(WriteLayerIndex(tree, claim, table.data_bytes, fd.get()).ok());
    }
    bundle.index = *ReadFile(path, 1 << 30);
    std::filesystem::remove(path);
  }

  uint64_t Counter(std::string_view name) const {
    for (const auto& [key, value] : store_->Counters()) {
      if (key == name) return value;
    }
    ADD_FAILURE() << "no counter " << name;
    return 0;
  }

  // Pulls an image while one of its layers is in use with an index that may be false.
  void PullBesideWhatIsShown(bool lie) {
    const Spec spec = Honest(1);
    AddImage("shown", {spec});
    Publish("shown", {spec}, {1}, {lie});
    const Given lazy = Show("shown", IndexTrust::Any());
    ASSERT_TRUE(lazy.status.ok()) << lazy.status;
    AddImage("other", {spec, Honest(2)});
    const Given eager = Show("other", IndexTrust::None());
    ASSERT_TRUE(eager.status.ok()) << eager.status;
    EXPECT_TRUE(eager.chain->layers[0]->proven());
    EXPECT_EQ(*Content(*eager.chain->layers[0], "mark"), "genuine 1");
  }

  FakeRepository repository_;
  FakeSourceFactory sources_;
  std::vector<std::string> tars_;
  std::map<std::string, Digest> manifests_;
  ImageStore::Options options_;
  std::unique_ptr<ImageStore> store_;
};

TEST_F(IdentityTest, ALyingIndexOfAClaimedLayerIsSeenByItsOwnImageOnly) {
  // The hostile image claims layer 0; its blob contains layer 1, and its index says so.
  const Spec hostile = {0, GzipBytes(tars_[1]), true};
  AddImage("hostile", {hostile});
  Publish("hostile", {hostile}, {1}, {false});
  AddImage("genuine", {Honest(0)});
  const Given evil = Show("hostile", IndexTrust::Any(), "mallory");
  ASSERT_TRUE(evil.status.ok()) << evil.status;
  EXPECT_FALSE(evil.chain->layers[0]->proven());
  EXPECT_NE(evil.chain->chain_id, evil.image->chain_id());
  for (const IndexTrust trust : {IndexTrust::None(), IndexTrust::Any()}) {
    const Given good = Show("genuine", trust);
    ASSERT_TRUE(good.status.ok()) << good.status;
    EXPECT_TRUE(good.chain->layers[0]->proven());
    EXPECT_EQ(*Content(*good.chain->layers[0], "mark"), "genuine 0");
  }
  // Once all of it is present, the claim is found false; nobody else is affected.
  EXPECT_TRUE(absl::IsDataLoss(Durable(evil.chain)));
  EXPECT_FALSE(Content(*evil.chain->layers[0], "mark").ok());
  EXPECT_EQ(*Content(*Show("genuine", IndexTrust::None()).chain->layers[0], "mark"), "genuine 0");
  // By unpacking, the hostile image is not available at all.
  EXPECT_TRUE(absl::IsDataLoss(Show("hostile", IndexTrust::Any(), "mallory").status));
}

TEST_F(IdentityTest, AnHonestIndexIsPromoted) {
  const Spec spec = Honest(2);
  AddImage("image", {spec});
  Publish("image", {spec}, {2}, {false});
  Given lazy = Show("image", IndexTrust::Any());
  ASSERT_TRUE(lazy.status.ok()) << lazy.status;
  EXPECT_FALSE(lazy.chain->layers[0]->proven());
  EXPECT_TRUE(Durable(lazy.chain).ok());
  const Given again = Show("image", IndexTrust::Any());
  ASSERT_TRUE(again.status.ok()) << again.status;
  EXPECT_TRUE(again.chain->layers[0]->proven());
  EXPECT_EQ(again.chain->chain_id, again.image->chain_id());
  EXPECT_EQ(*Content(*again.chain->layers[0], "mark"), "genuine 2");
  EXPECT_EQ(*Content(*lazy.chain->layers[0], "mark"), "genuine 2");
  // Nothing was fetched twice.
  uint64_t bytes = 0;
  for (const ByteRange& range : repository_.Reads(Sha256Of(spec.blob))) bytes += range.size();
  EXPECT_LE(bytes, spec.blob.size() + 100'000);
}

TEST_F(IdentityTest, AnEagerPullCompletesWhatIsShown) {
  const Spec spec = Honest(1);
  AddImage("image", {spec});
  Publish("image", {spec}, {1}, {false});
  const Given lazy = Show("image", IndexTrust::Any());
  ASSERT_TRUE(lazy.status.ok()) << lazy.status;
  const Given eager = Show("image", IndexTrust::None());
  ASSERT_TRUE(eager.status.ok()) << eager.status;
  EXPECT_TRUE(eager.chain->layers[0]->proven());
  EXPECT_EQ(Counter("layers_built"), 0U);
}

TEST_F(IdentityTest, AnEagerPullOfAnotherImageWaitsForWhatIsShown) {
  PullBesideWhatIsShown(/*lie=*/false);
  EXPECT_EQ(Counter("layers_built"), 1U);  // the one that was not in use
}

TEST_F(IdentityTest, AnEagerPullOfAnotherImageOutlivesALieThatIsShown) {
  PullBesideWhatIsShown(/*lie=*/true);
  EXPECT_EQ(Counter("layers_built"), 2U);
}

TEST_F(IdentityTest, NamingADiffIdGivesNothing) {
  AddImage("private", {Honest(0), Honest(1)});
  ASSERT_TRUE(Show("private", IndexTrust::None()).status.ok());
  AddImage("thief", {{0, "nothing", true}, {1, "nothing at all", true}});
  for (const IndexTrust trust : {IndexTrust::None(), IndexTrust::Any()}) {
    EXPECT_FALSE(Show("thief", trust, "mallory").status.ok());
  }
  Reopen();
  EXPECT_FALSE(Show("thief", IndexTrust::None(), "mallory").status.ok());
}

// Both passes read the same download, at the same time.
TEST_F(IdentityTest, ImagesOfOneBlobDoNotShareAFalseDiffId) {
  const Spec honest = Honest(1), liar = {0, honest.blob, true};
  AddImage("honest", {honest});
  AddImage("liar", {liar});
  AddImage("claimed", {Honest(0)});
  const Digest blob = Sha256Of(honest.blob);
  repository_.HoldAt(blob, 1000);
  Given evil, good;
  std::thread first([&] { evil = Show("liar", IndexTrust::None(), "mallory"); });
  repository_.AwaitHeld(blob);
  std::thread second([&] { good = Show("honest", IndexTrust::None(), "alice"); });
  EXPECT_TRUE(Eventually([&] {
    for (const FlightReport& report : store_->Flights()) {
      if (report.name == "layer") return report.running.size() == 2;
    }
    return false;
  }));
  repository_.Release(blob);
  first.join();
  second.join();
  EXPECT_TRUE(absl::IsDataLoss(evil.status)) << evil.status;
  for (const Digest& named : {blob, DiffIdOf(0), DiffIdOf(1)}) {
    EXPECT_NE(evil.status.message().find(named.ToString()), std::string::npos) << evil.status;
  }
  ASSERT_TRUE(good.status.ok()) << good.status;
  EXPECT_EQ(*Content(*good.chain->layers[0], "mark"), "genuine 1");
  const Given claimed = Show("claimed", IndexTrust::None());
  ASSERT_TRUE(claimed.status.ok()) << claimed.status;
  EXPECT_EQ(*Content(*claimed.chain->layers[0], "mark"), "genuine 0");
  EXPECT_EQ(store_->ListLayers().size(), 2U);
}

// Layers that can be read before their tars are hashed. What is checked here holds at any moment of
// that, and the tars are large enough for there to be one.
class HashBehindTest : public IdentityTest {
 protected:
  HashBehindTest() {
    options_.hash_behind = 1;
    for (uint32_t i = 0; i < 2; ++i) {
      tars_[i] = TarOf({{"data", MixedBytes(8 << 20, i)}, {"mark", StrCat("genuine ", i)}});
    }
    Reopen();
  }
  static bool Proven(const Given& given) { return given.chain->layers[0]->complete(); }
  // Of an image whose blob is layer 1, and whose configuration claims layer 0.
  Spec Liar() { return {0, GzipBytes(tars_[1]), true}; }
  void ExpectRefused(const absl::Status& status) const {
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    for (const Digest& named : {Sha256Of(GzipBytes(tars_[1])), DiffIdOf(0), DiffIdOf(1)}) {
      EXPECT_NE(status.message().find(named.ToString()), std::string::npos) << status;
    }
  }
};

TEST_F(HashBehindTest, ALayerIsKnownByItsDiffIdOnceItIsHashed) {
  AddImage("image", {Honest(0)});
  const Given given = Show("image", IndexTrust::Any());
  ASSERT_TRUE(given.status.ok()) << given.status;
  const Layer& layer = *given.chain->layers[0];
  EXPECT_TRUE(layer.whole());
  EXPECT_NE(layer.id, DiffIdOf(0));
  EXPECT_NE(given.chain->chain_id, DiffIdOf(0));
  EXPECT_EQ(*Content(layer, "mark"), "genuine 0");
  ASSERT_TRUE(Durable(given.chain).ok());
  EXPECT_TRUE(Proven(given));
  EXPECT_EQ(*Content(layer, "mark"), "genuine 0");
  // A further mount of the image shares what is mounted.
  EXPECT_EQ(Show("image", IndexTrust::Any()).chain, given.chain);
  // Whoever demands a proof is given the layer under its DiffID. It costs no second copy.
  const Given eager = Show("image", IndexTrust::None());
  ASSERT_TRUE(eager.status.ok()) << eager.status;
  EXPECT_TRUE(eager.chain->layers[0]->proven());
  EXPECT_EQ(repository_.Reads(Sha256Of(GzipBytes(tars_[0]))).size(), 1U);
  EXPECT_EQ(std::filesystem::hard_link_count(layer.directory + "/data"), 2U);
}

TEST_F(HashBehindTest, WhoDemandsAProofWaitsForIt) {
  AddImage("image", {Honest(0)});
  const Given shown = Show("image", IndexTrust::Any());
  const Given eager = Show("image", IndexTrust::None());
  ASSERT_TRUE(shown.status.ok() && eager.status.ok()) << shown.status << eager.status;
  EXPECT_EQ(eager.chain->layers[0]->id, DiffIdOf(0));
  EXPECT_TRUE(eager.chain->layers[0]->proven());
  EXPECT_TRUE(Proven(shown));
  EXPECT_EQ(repository_.Reads(Sha256Of(GzipBytes(tars_[0]))).size(), 1U);
}

TEST_F(HashBehindTest, AFalseDiffIdFailsTheReadersOfItsImageOnly) {
  AddImage("liar", {Liar()});
  AddImage("claimed", {Honest(0)});
  AddImage("honest", {Honest(1)});
  const Given evil = Show("liar", IndexTrust::Any(), "mallory");
  if (!evil.status.ok()) return ExpectRefused(evil.status);  // it was hashed before it was shown
  // At this moment nobody is given the claimed layer by the liar's blob, nor its blob by the claim.
  const Given claimed = Show("claimed", IndexTrust::Any());
  const Given honest = Show("honest", IndexTrust::Any());
  ASSERT_TRUE(claimed.status.ok() && honest.status.ok()) << claimed.status << honest.status;
  EXPECT_EQ(*Content(*claimed.chain->layers[0], "mark"), "genuine 0");
  EXPECT_EQ(*Content(*honest.chain->layers[0], "mark"), "genuine 1");
  EXPECT_TRUE(Eventually([&] { return !Content(*evil.chain->layers[0], "mark").ok(); }));
  ExpectRefused(Content(*evil.chain->layers[0], "mark").status());
  EXPECT_FALSE(Durable(evil.chain).ok());
  EXPECT_FALSE(Proven(evil));
  // From now on the image is hashed before it is shown.
  const Digest name = evil.chain->layers[0]->id;
  EXPECT_TRUE(Eventually([&] { return store_->StateOfName(name) == LayerState::kAbsent; }));
  EXPECT_EQ(Counter("layers_failed"), 1U);
  ExpectRefused(Show("liar", IndexTrust::Any(), "mallory").status);
  ExpectRefused(Show("liar", IndexTrust::None(), "mallory").status);
  ASSERT_TRUE(Durable(claimed.chain).ok());
  ASSERT_TRUE(Durable(honest.chain).ok());
  for (const LayerInfo& layer : store_->ListLayers()) {
    EXPECT_NE(layer.id, evil.chain->layers[0]->id);
    EXPECT_EQ(layer.state, LayerState::kComplete);
  }
  EXPECT_EQ(*Content(*claimed.chain->layers[0], "mark"), "genuine 0");
  EXPECT_EQ(*Content(*honest.chain->layers[0], "mark"), "genuine 1");
}

TEST_F(HashBehindTest, APullBesideALieFailsToo) {
  AddImage("liar", {Liar()});
  const Given evil = Show("liar", IndexTrust::Any());
  if (!evil.status.ok()) ExpectRefused(evil.status);  // it was hashed before it was shown
  ExpectRefused(Show("liar", IndexTrust::None()).status);
}

TEST_F(HashBehindTest, TheNextProcessHashesWhatIsLeft) {
  AddImage("image", {Honest(0)});
  AddImage("liar", {Liar()});
  {
    const Given evil = Show("liar", IndexTrust::Any()), given = Show("image", IndexTrust::Any());
    ASSERT_TRUE(given.status.ok()) << given.status;
    if (!evil.status.ok()) ExpectRefused(evil.status);  // as above
  }
  Reopen();  // does not wait for the hashes
  const Given given =
      Show("image", IndexTrust::None(), "alice", "registry.test", PullPolicy::kMissing);
  ASSERT_TRUE(given.status.ok()) << given.status;
  EXPECT_TRUE(given.chain->layers[0]->proven());
  EXPECT_EQ(*Content(*given.chain->layers[0], "mark"), "genuine 0");
  EXPECT_EQ(repository_.Reads(Sha256Of(GzipBytes(tars_[0]))).size(), 1U);
  ExpectRefused(Show("liar", IndexTrust::None()).status);
  ASSERT_TRUE(Durable(given.chain).ok());
  for (const LayerInfo& layer : store_->ListLayers()) EXPECT_EQ(layer.diff_id, DiffIdOf(0));
}

TEST_F(HashBehindTest, WhoMayNotHaveTheBlobIsNotGivenTheLayerBeforeEither) {
  const std::vector<Descriptor> blobs = AddImage("private", {Honest(0)});
  const Given given = Show("private", IndexTrust::Any());
  ASSERT_TRUE(given.status.ok()) << given.status;
  repository_.Deny("mallory", blobs[0].digest);
  EXPECT_FALSE(Show("private", IndexTrust::Any(), "mallory").status.ok());
}

TEST_F(IdentityTest, NamingABlobAsksItsRegistry) {
  const std::vector<Descriptor> blobs = AddImage("private", {Honest(0)});
  ASSERT_TRUE(Show("private", IndexTrust::None()).status.ok());
  repository_.Deny("mallory", blobs[0].digest);
  EXPECT_FALSE(Show("private", IndexTrust::None(), "mallory").status.ok());
  // A caller with access fetches nothing.
  const size_t reads = repository_.Reads(blobs[0].digest).size();
  EXPECT_TRUE(Show("private", IndexTrust::None(), "bob").status.ok());
  EXPECT_EQ(repository_.Reads(blobs[0].digest).size(), reads);
  const int questions = repository_.questions();
  EXPECT_TRUE(Show("private", IndexTrust::None(), "bob").status.ok());
  EXPECT_EQ(repository_.questions(), questions) << "asked again what was known";
}

TEST_F(IdentityTest, AnotherRegistryIsNotBelievedThatItHasABlob) {
  const std::vector<Descriptor> blobs = AddImage("private", {Honest(0)});
  ASSERT_TRUE(Show("private", IndexTrust::None()).status.ok());
  const size_t reads = repository_.Reads(blobs[0].digest).size();
  // This registry has it, and proves it by sending it.
  EXPECT_TRUE(Show("private", IndexTrust::None(), "bob", "other.test").status.ok());
  EXPECT_GT(repository_.Reads(blobs[0].digest).size(), reads);
}

TEST_F(IdentityTest, WhatWasGotAnonymouslyIsEverybodys) {
  const std::vector<Descriptor> blobs = AddImage("public", {Honest(0)});
  ASSERT_TRUE(Show("public", IndexTrust::None(), "").status.ok());
  const size_t reads = repository_.Reads(blobs[0].digest).size();
  EXPECT_TRUE(Show("public", IndexTrust::None(), "bob", "other.test").status.ok());
  EXPECT_EQ(repository_.Reads(blobs[0].digest).size(), reads);
  EXPECT_EQ(repository_.questions(), 0);
}

TEST_F(IdentityTest, AnotherCompressionIsProvenByItself) {
  AddImage("one", {Honest(3, 1)});
  AddImage("two", {Honest(3, 9)});
  const Given one = Show("one", IndexTrust::None(), "");
  const Given two = Show("two", IndexTrust::None(), "");
  ASSERT_TRUE(one.status.ok() && two.status.ok()) << one.status << two.status;
  EXPECT_EQ(one.chain->layers[0], two.chain->layers[0]);
  EXPECT_EQ(Counter("layers_built"), 2U);
}

TEST_F(IdentityTest, WhoJoinsAFlightMustHaveTheBlob) {
  const std::vector<Descriptor> blobs = AddImage("private", {Honest(0)});
  repository_.Deny("mallory", blobs[0].digest);
  repository_.HoldAt(blobs[0].digest, 1000);
  Given alice, mallory;
  std::thread first([&] { alice = Show("private", IndexTrust::None(), "alice"); });
  repository_.AwaitHeld(blobs[0].digest);
  std::thread second([&] { mallory = Show("private", IndexTrust::None(), "mallory"); });
  absl::SleepFor(absl::Milliseconds(50));
  repository_.Release(blobs[0].digest);
  first.join();
  second.join();
  EXPECT_TRUE(alice.status.ok()) << alice.status;
  EXPECT_FALSE(mallory.status.ok());
}

TEST_F(IdentityTest, WhoJoinsAFlightForAForeignBlobReadsItHimself) {
  const Spec spec = Honest(0);
  manifests_["foreign"] = repository_.AddImage(
      "foreign", {{spec.blob, DiffIdOf(spec.claims), spec.gzip, /*foreign=*/true}});
  const Digest blob = repository_.LayerBlob(0).digest;
  repository_.HoldAt(blob, 1000);
  Given alice, bob;
  std::thread first([&] { alice = Show("foreign", IndexTrust::None(), "alice"); });
  repository_.AwaitHeld(blob);
  std::thread second([&] { bob = Show("foreign", IndexTrust::None(), "bob"); });
  absl::SleepFor(absl::Milliseconds(50));
  repository_.Release(blob);
  first.join();
  second.join();
  EXPECT_TRUE(alice.status.ok()) << alice.status;
  EXPECT_TRUE(bob.status.ok()) << bob.status;
  EXPECT_EQ(repository_.Reads(blob).size(), 2U);
  // Naming a blob does not grant access to it.
  repository_.Deny("mallory", blob);
  EXPECT_FALSE(Show("foreign", IndexTrust::None(), "mallory").status.ok());
}

TEST_F(IdentityTest, ABlobThatIsNotWhatItsNameSaysIsNeverProven) {
  const Spec spec = Honest(0);
  AddImage("image", {spec});
  Publish("image", {spec}, {0}, {false});
  // The time in the gzip header: only the blob's digest covers it.
  repository_.CorruptAt(Sha256Of(spec.blob), 4, 1000);
  const Given given = Show("image", IndexTrust::Any());
  ASSERT_TRUE(given.status.ok()) << given.status;
  EXPECT_FALSE(Durable(given.chain).ok());
  EXPECT_NE(store_->StateOf(KeyOf(*given.image, 0)), LayerState::kComplete);
}

TEST_F(IdentityTest, TheStoreRemembersWhatAnImageWasGiven) {
  const Spec spec = Honest(0);
  const std::vector<Descriptor> blobs = AddImage("image", {spec});
  Publish("image", {spec}, {0}, {false});
  const Digest name = Show("image", IndexTrust::Any()).chain->chain_id;
  Reopen();
  const int questions = repository_.questions();
  const Given again =
      Show("image", IndexTrust::Any(), "alice", "registry.test", PullPolicy::kNever);
  ASSERT_TRUE(again.status.ok()) << again.status;
  EXPECT_EQ(again.chain->chain_id, name);
  EXPECT_EQ(repository_.questions(), questions);
}

TEST_F(IdentityTest, TheDescribedLayerGoesOnceNobodyIsShownIt) {
  const Spec spec = Honest(0);
  AddImage("image", {spec});
  Publish("image", {spec}, {0}, {false});
  Given lazy = Show("image", IndexTrust::Any());
  ASSERT_TRUE(Durable(lazy.chain).ok());
  EXPECT_EQ(store_->ListLayers().size(), 2U);
  lazy = {};
  for (int i = 0; i < 2000 && store_->ListLayers().size() > 1; ++i) {
    ASSERT_TRUE(store_->Collect().ok());
    absl::SleepFor(absl::Milliseconds(2));
  }
  ASSERT_EQ(store_->ListLayers().size(), 1U);
  EXPECT_EQ(store_->ListLayers()[0].id, DiffIdOf(0));
  EXPECT_EQ(*Content(*Show("image", IndexTrust::None()).chain->layers[0], "mark"), "genuine 0");
}

// ---- A store of format 1, which kept every layer under the claimed DiffID.

class OldStoreTest : public IdentityTest {
 protected:
  // Turns the closed store into what the earlier version left.
  void MakeOld() {
    auto kv = *KeyValueStore::Open(options_.root + "/db");
    WriteBatch batch;
    batch.Put("meta/version", "1");
    for (const std::string_view prefix : {"layer/", "image/", "held/"}) {
      ASSERT_TRUE(kv->ForEachWithPrefix(prefix, [&](std::string_view key, std::string_view value) {
                      std::string old(value);
                      for (const std::string member : {",\"origins\":[", ",\"layers\":["}) {
                        const size_t at = old.find(member);
                        if (at == std::string::npos) continue;
                        old.erase(at, old.find(']', at) + 1 - at);
                      }
                      batch.Put(key, old);
                      return true;
                    }).ok());
    }
    ASSERT_TRUE(kv->Write(batch, true).ok());
  }
};

TEST_F(OldStoreTest, WhatWasHashedStaysWithItsImage) {
  AddImage("image", {Honest(0)});
  {
    const Given given = Show("image", IndexTrust::None());
    ASSERT_TRUE(given.status.ok());
    ASSERT_TRUE(Durable(given.chain).ok());
  }
  store_.reset();
  MakeOld();
  Reopen();
  EXPECT_EQ(store_->Usage()->kinds.at(0).name, "layers-exclusive");
  EXPECT_EQ(store_->Usage()->kinds.at(0).count, 1u) << "which only the configuration names";
  const size_t reads = repository_.Reads(Sha256Of(Honest(0).blob)).size();
  const Given again =
      Show("image", IndexTrust::None(), "alice", "registry.test", PullPolicy::kNever);
  ASSERT_TRUE(again.status.ok()) << again.status;
  EXPECT_EQ(*Content(*again.chain->layers[0], "mark"), "genuine 0");
  EXPECT_EQ(repository_.Reads(Sha256Of(Honest(0).blob)).size(), reads);
  // Its blob is unknown: another image must prove its own.
  AddImage("thief", {{0, "nothing", true}});
  EXPECT_FALSE(Show("thief", IndexTrust::None(), "mallory").status.ok());
}

TEST_F(OldStoreTest, WhatWasShownBeforeItWasProvenIsFetchedAgain) {
  const Spec spec = Honest(0);
  AddImage("image", {spec});
  Publish("image", {spec}, {0}, {true});
  ASSERT_TRUE(Show("image", IndexTrust::Any()).status.ok());
  store_.reset();
  // Under its DiffID, as in the earlier version.
  const std::filesystem::path layers = options_.root + "/layers";
  for (const auto& one : std::filesystem::directory_iterator(layers)) {
    auto kv = *KeyValueStore::Open(options_.root + "/db");
    const std::string name = one.path().filename();
    std::string record = **kv->Get(StrCat("layer/", name));
    WriteBatch batch;
    batch.Delete(StrCat("layer/", name));
    batch.Put(StrCat("layer/", DiffIdOf(0).hex()), record);
    ASSERT_TRUE(kv->Write(batch, true).ok());
    std::filesystem::rename(one.path(), layers / DiffIdOf(0).hex());
    break;
  }
  MakeOld();
  Reopen();
  EXPECT_TRUE(store_->ListLayers().empty());
  const Given given = Show("image", IndexTrust::None());
  ASSERT_TRUE(given.status.ok()) << given.status;
  EXPECT_EQ(*Content(*given.chain->layers[0], "mark"), "genuine 0");
}

// ---- The rules over random histories.

class IdentityPropertyTest : public IdentityTest, public ::testing::WithParamInterface<uint32_t> {
 protected:
  struct Image {
    std::string tag;
    std::vector<Spec> specs;
    std::vector<uint32_t> real;  // what the blobs contain; 99: no layer
    std::vector<bool> lie;       // for its published index
    bool published = false;
  };

  Spec RandomSpec(std::mt19937& dice, uint32_t& real) {
    const uint32_t claims = dice() % 4;
    switch (dice() % 5) {
      case 0:  // the blob of another layer
        real = dice() % 4;
        return {claims, GzipBytes(tars_[real], 6), true};
      case 1:
        real = 99;
        return {claims, StrCat("nothing ", dice() % 3), true};
      default:
        real = claims;
        return Honest(claims, dice() % 2 == 0 ? 1 : 6);
    }
  }

  std::vector<Image> MakeImages(std::mt19937& dice) {
    std::vector<Image> images;
    std::set<Digest> manifests;  // all different, so that each has one index
    for (int n = 0; n < 8; ++n) {
      Image image;
      image.tag = StrCat("image", n);
      const size_t layers = 1 + dice() % 2;
      bool passes = true;
      for (size_t i = 0; i < layers; ++i) {
        uint32_t real = 0;
        image.specs.push_back(RandomSpec(dice, real));
        image.real.push_back(real);
        // A blob has one description.
        const bool twice = i > 0 && image.specs[0].blob == image.specs[i].blob;
        image.lie.push_back(twice ? image.lie[0] : dice() % 3 == 0);
        passes = passes && real != 99;
      }
      AddImage(image.tag, image.specs);
      if (!manifests.insert(manifests_[image.tag]).second) continue;
      if (passes && dice() % 2 == 0) {
        image.published = true;
        Publish(image.tag, image.specs, image.real, image.lie);
      }
      images.push_back(std::move(image));
    }
    return images;
  }

  // Checks the invariants of what `image` was given.
  void Check(const Image& image, const Given& given, IndexTrust trust, const std::string& user) {
    for (size_t i = 0; i < image.specs.size(); ++i) {
      const Spec& spec = image.specs[i];
      const LayerRef& layer = given.chain->layers[i];
      ASSERT_EQ(layer->diff_id, DiffIdOf(spec.claims));
      EXPECT_FALSE(denied_.contains({user, Sha256Of(spec.blob)}) && layer->complete())
          << user << " was given a blob that it may not have";
      if (layer->proven()) {
        const absl::StatusOr<std::string> mark = Content(*layer, "mark");
        ASSERT_TRUE(mark.ok()) << mark.status();
        EXPECT_EQ(*mark, StrCat("genuine ", spec.claims));
        EXPECT_EQ(image.real[i], spec.claims) << "a layer was given for a blob that is none of it";
        continue;
      }
      EXPECT_TRUE(trust.Allows(layer->source));
      EXPECT_TRUE(image.published);
      // Only what its own publisher says; the bytes are those of the blob, or none.
      const absl::StatusOr<std::string> mark = Content(*layer, image.lie[i] ? "evil" : "mark");
      if (mark.ok()) {
        EXPECT_EQ(*mark, StrCat("genuine ", image.real[i]));
      }
      EXPECT_FALSE(absl::IsNotFound(mark.status())) << mark.status();
    }
    const bool proven = std::all_of(given.chain->layers.begin(), given.chain->layers.end(),
                                    [](const LayerRef& layer) { return layer->proven(); });
    EXPECT_EQ(given.chain->chain_id == given.image->chain_id(), proven);
  }

  bool Denied(const Image& image, const std::string& user) const {
    return std::any_of(image.specs.begin(), image.specs.end(), [&](const Spec& spec) {
      return denied_.contains({user, Sha256Of(spec.blob)});
    });
  }

  std::set<std::pair<std::string, Digest>> denied_;
};

TEST_P(IdentityPropertyTest, WhatIsSharedHasBeenProven) {
  const std::vector<std::string> users = {"", "alice", "bob", "mallory"};
  const std::vector<std::string> registries = {"registry.test", "other.test"};
  std::mt19937 dice(GetParam());
  const std::vector<Image> images = MakeImages(dice);
  for (const Image& image : images) {
    for (const Spec& spec : image.specs) {
      if (dice() % 4 != 0) continue;
      // A private blob; mallory may read public ones.
      for (const std::string user : {"mallory", ""}) {
        repository_.Deny(user, Sha256Of(spec.blob));
        denied_.emplace(user, Sha256Of(spec.blob));
      }
    }
  }
  std::vector<Given> held;
  for (int step = 0; step < 80; ++step) {
    const Image& image = images[dice() % images.size()];
    const IndexTrust trust = dice() % 3 == 0 ? IndexTrust::None() : IndexTrust::Any();
    const std::string& user = users[dice() % users.size()];
    const std::string& registry = registries[dice() % registries.size()];
    switch (dice() % 8) {
      case 0:
        held.clear();
        break;
      case 1:
        held.clear();
        Reopen();
        break;
      case 2:
        if (!held.empty()) (void)Durable(held[dice() % held.size()].chain);
        break;
      case 3:
        (void)store_->Collect();
        break;
      case 4: {
        const Reference reference = *Reference::Parse(StrCat(registry, "/img:", image.tag));
        (void)(dice() % 2 == 0 ? store_->Evict(reference) : store_->Remove(reference));
        break;
      }
      default:
        Given given = Show(image.tag, trust, user, registry);
        if (!given.status.ok()) break;
        Check(image, given, trust, user);
        if (HasFatalFailure()) return;
        // Without access the bytes never arrive.
        if (!Denied(image, user)) held.push_back(std::move(given));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Histories, IdentityPropertyTest, ::testing::Range(1U, 13U));

// Concurrently: honest and hostile images of the same layers; none blocks another.
TEST_P(IdentityPropertyTest, AtTheSameTimeToo) {
  std::mt19937 dice(GetParam());
  const std::vector<Image> images = MakeImages(dice);
  const std::vector<std::string> users = {"", "alice", "bob"};
  std::vector<std::thread> threads;
  for (int n = 0; n < 6; ++n) {
    threads.emplace_back([&, n] {
      std::mt19937 own(static_cast<uint32_t>(100 + n));
      for (int step = 0; step < 15; ++step) {
        const Image& image = images[own() % images.size()];
        const IndexTrust trust = own() % 3 == 0 ? IndexTrust::None() : IndexTrust::Any();
        const std::string& user = users[own() % users.size()];
        const Given given = Show(image.tag, trust, user);
        if (!given.status.ok()) continue;
        Check(image, given, trust, user);
        if (own() % 3 == 0) (void)Durable(given.chain);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(IdentityNameTest, EverythingThatBindsALayerIsInItsName) {
  FoundIndex found;
  found.origin = "eStargz";
  found.description = Sha256Of("table");
  const Digest blob = Sha256Of("blob"), diff_id = Sha256Of("tar");
  const Digest name = UnprovenLayerId(blob, diff_id, found, "registry.test");
  EXPECT_EQ(name, UnprovenLayerId(blob, diff_id, found, "registry.test"));
  EXPECT_NE(name, UnprovenLayerId(diff_id, diff_id, found, "registry.test"));
  EXPECT_NE(name, UnprovenLayerId(blob, blob, found, "registry.test"));
  EXPECT_NE(name, UnprovenLayerId(blob, diff_id, found, "other.test"));
  found.origin = "zstd:chunked";
  EXPECT_NE(name, UnprovenLayerId(blob, diff_id, found, "registry.test"));
  found.origin = "eStargz";
  found.description = Sha256Of("another table");
  EXPECT_NE(name, UnprovenLayerId(blob, diff_id, found, "registry.test"));
}

TEST(IdentityNameTest, AChainOfProvenLayersHasItsChainId) {
  const std::vector<Digest> diff_ids = {Sha256Of("a"), Sha256Of("b")};
  EXPECT_EQ(ChainIdentity(diff_ids, diff_ids), ChainIds(diff_ids).back());
  EXPECT_NE(ChainIdentity({Sha256Of("u"), diff_ids[1]}, diff_ids), ChainIds(diff_ids).back());
  EXPECT_NE(ChainIdentity({Sha256Of("u")}, {Sha256Of("a")}), Sha256Of("u"));
}

}  // namespace
}  // namespace imagefs
