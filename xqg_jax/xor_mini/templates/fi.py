"""Finnish questions by type of entity and attribute.

The name stays in the nominative: the word for its type takes the case.
"""

QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
  "painter": {
    "birth_date": (
      "Milloin taidemaalari {name} syntyi?",
      "Minä päivänä taidemaalari {name} on syntynyt?",
      "Mikä on {name} -nimisen taidemaalarin syntymäpäivä?",
    ),
    "birthplace": (
      "Missä taidemaalari {name} syntyi?",
      "Missä kylässä taidemaalari {name} on syntynyt?",
      "Mistä taidemaalari {name} oli kotoisin?",
    ),
    "death_date": (
      "Milloin taidemaalari {name} kuoli?",
      "Minä päivänä taidemaalari {name} kuoli?",
    ),
    "teacher": (
      "Kuka opetti taidemaalaria nimeltä {name}?",
      "Kenen oppilas taidemaalari {name} oli?",
      "Kenen johdolla taidemaalari {name} opiskeli?",
    ),
    "spouse": (
      "Kenen kanssa taidemaalari {name} meni naimisiin?",
      "Kuka oli {name} -nimisen taidemaalarin vaimo?",
      "Kenen kanssa taidemaalari {name} oli naimisissa?",
    ),
    "burial_place": (
      "Minne taidemaalari {name} on haudattu?",
      "Missä on {name} -nimisen taidemaalarin hauta?",
    ),
  },
  "town": {
    "founding_date": (
      "Milloin kaupunki nimeltä {name} perustettiin?",
      "Milloin {name} -niminen kaupunki on perustettu?",
    ),
    "founder": (
      "Kuka perusti kaupungin nimeltä {name}?",
      "Kuka on {name} -nimisen kaupungin perustaja?",
    ),
    "population": (
      "Kuinka monta asukasta on kaupungissa nimeltä {name}?",
      "Mikä on {name} -nimisen kaupungin asukasluku?",
      "Paljonko asukkaita on {name} -nimisessä kaupungissa?",
    ),
    "river": (
      "Minkä joen varrella on kaupunki nimeltä {name}?",
      "Mikä joki virtaa {name} -nimisen kaupungin läpi?",
    ),
    "mayor": (
      "Kuka on {name} -nimisen kaupungin pormestari?",
      "Kuka on pormestarina kaupungissa nimeltä {name}?",
    ),
    "elevation": (
      "Kuinka korkealla merenpinnasta on kaupunki nimeltä {name}?",
      "Millä korkeudella sijaitsee {name} -niminen kaupunki?",
    ),
  },
  "river": {
    "length": (
      "Kuinka pitkä on joki nimeltä {name}?",
      "Mikä on {name} -joen pituus?",
      "Kuinka monta kilometriä pitkä on {name} -joki?",
    ),
    "source": (
      "Mistä {name} -joki saa alkunsa?",
      "Missä on {name} -joen lähde?",
      "Miltä vuorelta alkaa joki nimeltä {name}?",
    ),
    "mouth": (
      "Mihin {name} -joki laskee?",
      "Mihin järveen laskee joki nimeltä {name}?",
    ),
    "largest_town": (
      "Mikä on {name} -joen varren suurin kaupunki?",
      "Mikä on suurin kaupunki {name} -joen varrella?",
    ),
    "basin_area": (
      "Kuinka suuri on {name} -joen valuma-alue?",
      "Mikä on {name} -joen valuma-alueen pinta-ala?",
    ),
    "explorer": (
      "Kuka kartoitti ensimmäisenä {name} -joen?",
      "Kuka tutkimusmatkailija piirsi {name} -joen ensimmäisen kartan?",
    ),
  },
  "mountain": {
    "height": (
      "Kuinka korkea on vuori nimeltä {name}?",
      "Mikä on {name} -vuoren korkeus?",
      "Kuinka monta metriä korkea on {name} -vuori?",
    ),
    "first_ascent": (
      "Milloin {name} -vuori kiivettiin ensimmäisen kerran?",
      "Milloin {name} -vuoren huipulle noustiin ensimmäisen kerran?",
    ),
    "first_climber": (
      "Kuka kiipesi ensimmäisenä {name} -vuorelle?",
      "Kuka oli ensimmäinen ihminen {name} -vuoren huipulla?",
    ),
    "range": (
      "Mihin vuoristoon kuuluu vuori nimeltä {name}?",
      "Missä vuoristossa on {name} -vuori?",
    ),
    "nearest_village": (
      "Mikä on {name} -vuorta lähin kylä?",
      "Mikä kylä sijaitsee {name} -vuoren juurella?",
    ),
    "namesake": (
      "Kenen mukaan {name} -vuori on saanut nimensä?",
      "Kenen mukaan on nimetty vuori nimeltä {name}?",
    ),
  },
  "company": {
    "founding_date": (
      "Milloin yritys nimeltä {name} perustettiin?",
      "Milloin {name} -yhtiö on perustettu?",
    ),
    "founder": (
      "Kuka perusti yrityksen nimeltä {name}?",
      "Kuka on {name} -yhtiön perustaja?",
    ),
    "headquarters": (
      "Missä on {name} -yhtiön pääkonttori?",
      "Missä kaupungissa on {name} -yhtiön päätoimipaikka?",
    ),
    "employees": (
      "Kuinka monta työntekijää on yrityksessä nimeltä {name}?",
      "Paljonko työntekijöitä on {name} -yhtiöllä?",
    ),
    "director": (
      "Kuka on {name} -yhtiön johtaja?",
      "Kuka johtaa yritystä nimeltä {name}?",
    ),
    "factory": (
      "Missä on {name} -yhtiön suurin tehdas?",
      "Missä sijaitsee {name} -yhtiön päätehdas?",
    ),
  },
  "museum": {
    "opening_date": (
      "Milloin museo nimeltä {name} avattiin?",
      "Milloin {name} -museo on avattu yleisölle?",
    ),
    "architect": (
      "Kuka suunnitteli {name} -museon rakennuksen?",
      "Kuka oli {name} -museon arkkitehti?",
    ),
    "collection_size": (
      "Kuinka monta esinettä on {name} -museon kokoelmassa?",
      "Kuinka suuri on {name} -museon kokoelma?",
    ),
    "location": (
      "Missä kaupungissa on museo nimeltä {name}?",
      "Missä {name} -museo sijaitsee?",
    ),
    "director": (
      "Kuka on {name} -museon johtaja?",
      "Kuka johtaa museota nimeltä {name}?",
    ),
    "visitors": (
      "Kuinka monta kävijää {name} -museossa on vuodessa?",
      "Paljonko kävijöitä on vuosittain museossa nimeltä {name}?",
    ),
  },
  "novel": {
    "publication_date": (
      "Milloin romaani {name} julkaistiin?",
      "Milloin romaani nimeltä {name} ilmestyi?",
    ),
    "author": (
      "Kuka on kirjoittanut romaanin {name}?",
      "Kuka on romaanin {name} kirjoittaja?",
    ),
    "hero": (
      "Kuka on romaanin {name} päähenkilö?",
      "Mikä on romaanin {name} päähenkilön nimi?",
    ),
    "setting": (
      "Mihin romaani {name} sijoittuu?",
      "Mihin kaupunkiin romaanin {name} tapahtumat sijoittuvat?",
    ),
    "translator": (
      "Kuka käänsi romaanin {name} englanniksi?",
      "Kuka on kääntänyt romaanin {name} englannin kielelle?",
    ),
    "print_run": (
      "Kuinka suuri oli romaanin {name} ensimmäinen painos?",
      "Montako kappaletta oli romaanin {name} ensipainoksessa?",
    ),
  },
}
